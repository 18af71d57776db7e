//! The only source of chance: one seed makes one run.

/// A small generator (splitmix64): equal seeds give equal numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(Option<u64>);

impl Rng {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(Some(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// No chance at all, for the exhaustive search: every number is the lowest.
    pub fn still() -> Rng {
        Rng(None)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let Some(state) = &mut self.0 else { return 0 };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// True this often in a thousand.
    pub fn permille(&mut self, n: u64) -> bool {
        self.below(1_000) < n
    }

    /// One of these, by weight.
    pub fn pick<T: Copy>(&mut self, weighted: &[(u64, T)]) -> T {
        let total: u64 = weighted.iter().map(|(w, _)| w).sum();
        let mut n = self.below(total.max(1));
        for (w, value) in weighted {
            if n < *w {
                return *value;
            }
            n -= w;
        }
        weighted[weighted.len() - 1].1
    }
}
