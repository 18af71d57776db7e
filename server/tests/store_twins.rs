//! Both stores are given the same random calls, and must answer the same: what the conformance suite did not think of.

mod store_support;

use amends::coordinator::record::{Index, Save};
use amends::{Millis, Status, TransType};
use amends_server::store::{Append, Filter, Store};
use futures_util::future::join_all;
use store_support::*;

/// Numbers from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// A call that can be made on either store.
#[derive(Clone, Debug)]
enum Call {
    Create(String, Save),
    Saves(String, Vec<Save>),
    Append(Append),
    Load(String),
    Claim(String),
    Unclaim(String),
    ClaimDue(usize, usize),
    DueLater(Millis),
    Failing(&'static str),
    List(Filter, usize),
    KvPut(&'static str, u64),
    KvDelete(&'static str),
    KvList(usize),
    Advance(Millis),
}

const NAMES: [&str; 7] = ["a", "ab", "ab0", "b", "c0", "c00", "d"];
const HOSTS: [&str; 2] = ["bank:1", "bank:2"];
const STATUSES: [Status; 4] = [
    Status::Prepared,
    Status::Submitted,
    Status::Aborting,
    Status::Succeed,
];

fn index(random: &mut Random, now: Millis) -> Index {
    let status = random.one_of(&STATUSES);
    let due = now + random.below(40) as Millis - 10;
    let index = Index {
        status,
        trans_type: TransType::Tcc,
        attention: random.below(2) == 0,
        failing_hosts: HOSTS
            .iter()
            .filter(|_| random.below(3) == 0)
            .map(|host| (*host).to_owned())
            .collect(),
        driven: random.below(3) == 0,
        quiet: (random.below(2) == 0).then(|| random.below(30) as Millis),
        ..waiting(due)
    };
    if status.is_final() {
        Index {
            due: None,
            quiet: None,
            finished: Some(now),
            driven: false,
            ..index
        }
    } else {
        index
    }
}

fn call(random: &mut Random, now: Millis) -> Call {
    let name = random.one_of(&NAMES).to_owned();
    let base = random.below(9);
    let new = |random: &mut Random, base| {
        let parts = (0..random.below(3))
            .map(|n| part(&[], &format!("{base}/{n}")))
            .collect();
        Save {
            parts,
            ..save(
                base,
                index(random, now),
                &format!("{{\"n\":{}}}", random.below(100)),
            )
        }
    };
    match random.below(16) {
        0 | 1 => Call::Create(name, new(random, 0)),
        2..=5 => Call::Saves(
            name,
            (base..base + 1 + random.below(4))
                .map(|base| new(random, base))
                .collect(),
        ),
        6 | 7 => {
            let mut append = register(
                &gid(&name),
                random.one_of(&["01", "02", "03"]),
                random.one_of(&["x", "y"]),
            );
            append.forbidden = (random.below(3) == 0).then(|| row("02", "confirm"));
            append.part.created = now;
            append.branches_max = 1 + random.below(4) as u32;
            append.bytes_max = 1 + random.below(5);
            Call::Append(append)
        }
        8 => Call::Load(name),
        9 => Call::Claim(name),
        10 => Call::Unclaim(name),
        11 => Call::ClaimDue(random.below(4) as usize, random.below(60) as usize),
        12 => Call::DueLater(now + random.below(20) as Millis),
        13 => Call::Failing(random.one_of(&HOSTS)),
        14 => {
            let status = (random.below(2) == 0).then(|| random.one_of(&STATUSES));
            Call::List(
                Filter {
                    status,
                    ..Filter::default()
                },
                1 + random.below(5) as usize,
            )
        }
        _ => match random.below(4) {
            0 => Call::KvPut(random.one_of(&NAMES), random.below(3)),
            1 => Call::KvDelete(random.one_of(&NAMES)),
            2 => Call::KvList(1 + random.below(3) as usize),
            _ => Call::Advance(random.below(15) as Millis),
        },
    }
}

/// The answer as text, so that answers of all calls can be compared.
async fn answer(store: &dyn Store, clock: &ManualClock, call: Call) -> String {
    match call {
        Call::Create(name, save) => format!("{:?}", store.create(gid(&name), save).await),
        Call::Saves(name, saves) => {
            let saves = saves.into_iter().map(|save| store.save(gid(&name), save));
            format!("{:?}", join_all(saves.collect::<Vec<_>>()).await)
        }
        Call::Append(append) => format!("{:?}", store.append(append).await),
        Call::Load(name) => format!("{:?}", store.load(&gid(&name)).await),
        Call::Claim(name) => format!("{:?}", store.claim(&gid(&name)).await),
        Call::Unclaim(name) => {
            store.unclaim(&gid(&name));
            String::new()
        }
        Call::ClaimDue(limit, bytes) => {
            format!("{:?}", store.claim_due(clock.now(), limit, bytes).await)
        }
        Call::DueLater(after) => {
            let (mut gids, more) = store.due_later(after, 100).await.expect("due_later");
            gids.sort();
            format!("{gids:?} {more}")
        }
        Call::Failing(host) => format!("{:?}", store.failing(host, 100).await),
        Call::List(filter, limit) => {
            let (mut found, mut position) = (Vec::new(), None);
            loop {
                let page = store
                    .list(filter.clone(), position, limit)
                    .await
                    .expect("list");
                found.extend(page.records);
                position = page.next;
                if position.is_none() {
                    return format!("{found:?}");
                }
            }
        }
        Call::KvPut(key, base) => format!(
            "{:?}",
            store.kv_put("topics", key, base.to_string(), base).await
        ),
        Call::KvDelete(key) => format!("{:?}", store.kv_delete("topics", key).await),
        Call::KvList(limit) => format!("{:?}", store.kv_list("", None, limit).await),
        Call::Advance(by) => {
            clock.advance(by);
            String::new()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_stores_answer_the_same() {
    for seed in 1..=6 {
        let (one, other) = (memory(), embedded());
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut story = Vec::new();
        for _ in 0..400 {
            let call = call(&mut random, one.clock.now());
            story.push(call.clone());
            let here = answer(&*one.store, &one.clock, call.clone()).await;
            let there = answer(&*other.store, &other.clock, call).await;
            let last = &story[story.len().saturating_sub(8)..];
            assert_eq!(
                here,
                there,
                "seed {seed}, after {} calls, the last: {last:#?}",
                story.len()
            );
            let (here, there) = (one.store.stats(), other.store.stats());
            assert_eq!(
                (
                    here.unfinished,
                    here.attention,
                    here.oldest_created,
                    here.earliest_due
                ),
                (
                    there.unfinished,
                    there.attention,
                    there.oldest_created,
                    there.earliest_due
                ),
                "seed {seed}, after {} calls, the last: {last:#?}",
                story.len(),
            );
        }
    }
}
