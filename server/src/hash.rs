//! Hash maps on the path of every saga. The standard library's hasher withstands strangers who choose keys to collide; who may submit is
//! no stranger, and a seed of each process' own is enough.

use foldhash::fast::RandomState;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
pub(crate) type HashSet<K> = std::collections::HashSet<K, RandomState>;
