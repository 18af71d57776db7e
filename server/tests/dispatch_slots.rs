//! Slots: the limits, the circuit breaker, and that nobody who waits is forgotten.

use amends::Gid;
use amends_server::dispatch::slots::{Acquire, Freed, Permit, SlotLimits, Slots};
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn gid(n: usize) -> Gid {
    Gid::stored(&format!("g{n}"))
}

fn granted(answer: Acquire) -> Permit {
    match answer {
        Acquire::Granted(permit) => permit,
        Acquire::Queued => panic!("queued"),
    }
}

fn queued(answer: Acquire) {
    assert!(matches!(answer, Acquire::Queued));
}

fn freed(next: &[usize], recovered: bool) -> Freed {
    Freed {
        next: next.iter().map(|n| gid(*n)).collect(),
        recovered,
    }
}

const SMALL: SlotLimits = SlotLimits {
    total: 3,
    per_host: 2,
    probing: 1,
    failures: 2,
};

#[test]
fn a_host_takes_its_limit_and_the_next_one_waits_its_turn() {
    let slots = Slots::new(SMALL);
    let first = granted(slots.try_acquire("a", &gid(1)));
    let second = granted(slots.try_acquire("a", &gid(1)));
    queued(slots.try_acquire("a", &gid(2)));
    queued(slots.try_acquire("a", &gid(3)));
    queued(slots.try_acquire("a", &gid(2)));
    assert_eq!((slots.calls_in_flight(), slots.waiting()), (2, 2));
    assert_eq!(slots.release(first, false), freed(&[2], false));
    queued(slots.try_acquire("a", &gid(4)));
    let third = granted(slots.try_acquire("a", &gid(2)));
    // The one that was handed out does not want its slot any more.
    assert_eq!(slots.release(second, false), freed(&[3], false));
    assert_eq!(slots.give_back(&gid(3)), freed(&[4], false));
    assert_eq!(slots.give_back(&gid(3)), freed(&[], false));
    let fourth = granted(slots.try_acquire("a", &gid(4)));
    assert_eq!(slots.release(third, false), freed(&[], false));
    assert_eq!(slots.release(fourth, false), freed(&[], false));
    assert_eq!(
        (slots.calls_in_flight(), slots.waiting(), slots.hosts()),
        (0, 0, 0)
    );
}

#[test]
fn the_total_is_a_limit_of_its_own_and_hosts_share_it_by_arrival() {
    let slots = Slots::new(SMALL);
    let a = granted(slots.try_acquire("a", &gid(1)));
    let b = granted(slots.try_acquire("b", &gid(2)));
    let c = granted(slots.try_acquire("c", &gid(3)));
    for (n, host) in [(4, "d"), (5, "a"), (6, "a")] {
        queued(slots.try_acquire(host, &gid(n)));
    }
    assert_eq!(slots.release(a, false), freed(&[4], false));
    assert_eq!(slots.release(b, false), freed(&[5], false));
    assert_eq!(slots.release(c, false), freed(&[6], false));
}

#[test]
fn a_host_that_does_not_answer_is_only_probed_until_it_does() {
    let slots = Slots::new(SMALL);
    for _ in 0..2 {
        assert!(!slots.is_open("a"));
        let permit = granted(slots.try_acquire("a", &gid(1)));
        assert_eq!(slots.release(permit, true), freed(&[], false));
    }
    assert!(slots.is_open("a"));
    let probe = granted(slots.try_acquire("a", &gid(1)));
    queued(slots.try_acquire("a", &gid(2)));
    queued(slots.try_acquire("a", &gid(3)));
    let other = granted(slots.try_acquire("b", &gid(4)));
    assert_eq!(slots.release(probe, true), freed(&[2], false));
    let probe = granted(slots.try_acquire("a", &gid(2)));
    assert_eq!(slots.release(probe, false), freed(&[3], true));
    assert!(!slots.is_open("a"));
    let permit = granted(slots.try_acquire("a", &gid(3)));
    assert_eq!(slots.release(permit, false), freed(&[], false), "only once");
    assert_eq!(slots.release(other, false), freed(&[], false));
}

#[test]
fn failures_count_only_in_a_row() {
    let slots = Slots::new(SlotLimits {
        failures: 5,
        ..SMALL
    });
    for unreachable in [true, true, true, true, false, true, true, true, true] {
        let permit = granted(slots.try_acquire("a", &gid(1)));
        assert_eq!(slots.release(permit, unreachable), freed(&[], false));
        assert!(!slots.is_open("a"));
    }
    let permit = granted(slots.try_acquire("a", &gid(1)));
    assert_eq!(slots.release(permit, true), freed(&[], false));
    assert!(slots.is_open("a"));
}

#[test]
fn a_permit_lost_in_a_panic_is_no_slot_lost() {
    let slots = Slots::new(SlotLimits { total: 1, ..SMALL });
    let permit = granted(slots.try_acquire("a", &gid(1)));
    queued(slots.try_acquire("b", &gid(2)));
    drop(permit);
    assert_eq!(slots.calls_in_flight(), 0);
    assert_eq!(slots.give_back(&gid(1)), freed(&[2], false));
    assert!(!slots.is_open("a"));
}

#[test]
fn hosts_that_only_failed_are_forgotten_in_the_end() {
    let slots = Slots::new(SlotLimits::default());
    for n in 0..40_000 {
        let permit = granted(slots.try_acquire(&format!("http://h{n}"), &gid(n)));
        assert_eq!(slots.release(permit, true), freed(&[], false));
    }
    assert!(slots.hosts() <= 16_384, "{}", slots.hosts());
}

/// xorshift: the same run for the same seed everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Transactions that want calls, and drivers that make them; the model counts what the limits say.
struct World {
    slots: Slots,
    limits: SlotLimits,
    /// Calls each transaction still wants to make, by host.
    wanted: HashMap<usize, Vec<usize>>,
    calls: Vec<(usize, usize, Permit)>,
    waiting: BTreeSet<(usize, usize)>,
    /// Handed out, and not yet driven.
    to_drive: Vec<usize>,
    failures: BTreeMap<usize, u32>,
}

impl World {
    fn limit(&self, host: usize) -> usize {
        let open = self
            .failures
            .get(&host)
            .is_some_and(|f| *f >= self.limits.failures);
        if open {
            self.limits.probing
        } else {
            self.limits.per_host
        }
    }

    fn on(&self, host: usize) -> usize {
        self.calls.iter().filter(|(_, h, _)| *h == host).count()
    }

    /// A driver runs, makes what calls it may, and lets go of the transaction.
    fn drive(&mut self, n: usize) {
        let wanted = self.wanted.remove(&n).unwrap_or_default();
        let mut left = Vec::new();
        for host in wanted {
            match self.slots.try_acquire(&format!("h{host}"), &gid(n)) {
                Acquire::Granted(permit) => {
                    assert!(
                        self.on(host) < self.limit(host),
                        "one call too many to h{host}"
                    );
                    assert!(
                        self.calls.len() < self.limits.total,
                        "one call too many in all"
                    );
                    self.waiting.remove(&(n, host));
                    self.calls.push((n, host, permit));
                }
                Acquire::Queued => {
                    self.waiting.insert((n, host));
                    left.push(host);
                }
            }
        }
        if !left.is_empty() {
            self.wanted.insert(n, left);
        }
        let next = self.slots.give_back(&gid(n)).next;
        self.handed_out(next);
    }

    fn handed_out(&mut self, next: Vec<Gid>) {
        for gid in next {
            let n = gid.as_str()[1..].parse().expect("number");
            assert!(
                self.waiting.iter().any(|(waiting, _)| *waiting == n),
                "{gid} was handed out and did not wait"
            );
            if !self.wanted.contains_key(&n) {
                self.waiting.retain(|(waiting, _)| *waiting != n);
            }
            self.to_drive.push(n);
        }
    }

    /// Somebody stops a transaction that waits for one host; its place in the queue stays until it is handed out.
    fn stop(&mut self, n: usize) {
        if self
            .waiting
            .iter()
            .filter(|(waiting, _)| *waiting == n)
            .count()
            == 1
            && !self.to_drive.contains(&n)
        {
            self.wanted.remove(&n);
        }
    }

    fn end_call(&mut self, i: usize, unreachable: bool, lost: bool) {
        let (n, host, permit) = self.calls.swap_remove(i);
        if lost {
            drop(permit);
            let next = self.slots.give_back(&gid(n)).next;
            return self.handed_out(next);
        }
        let failures = self.failures.entry(host).or_default();
        let was_open = *failures >= self.limits.failures;
        *failures = if unreachable { *failures + 1 } else { 0 };
        let Freed { next, recovered } = self.slots.release(permit, unreachable);
        assert_eq!(recovered, was_open && !unreachable);
        self.handed_out(next);
    }

    /// With nothing handed out, a transaction waits only where there is really no room.
    fn nobody_waits_for_nothing(&self) {
        assert_eq!(self.slots.calls_in_flight(), self.calls.len());
        if self.calls.len() < self.limits.total {
            for (n, host) in &self.waiting {
                assert!(
                    self.on(*host) >= self.limit(*host),
                    "g{n} waits for h{host}, which has room"
                );
            }
        }
    }
}

#[test]
fn no_wake_up_is_lost_and_no_limit_passed() {
    for seed in 1..=2_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let limits = SlotLimits {
            total: 1 + random.below(8),
            per_host: 1 + random.below(4),
            probing: 1,
            failures: 1 + random.below(3) as u32,
        };
        let mut world = World {
            slots: Slots::new(limits),
            limits,
            wanted: HashMap::new(),
            calls: Vec::new(),
            waiting: BTreeSet::new(),
            to_drive: Vec::new(),
            failures: BTreeMap::new(),
        };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&mut world, &mut random)
        }));
        assert!(run.is_ok(), "seed {seed}");
    }
}

fn run(world: &mut World, random: &mut Random) {
    let mut started = 0;
    loop {
        match random.below(8) {
            0..=2 if started < 40 => {
                let hosts = (0..1 + random.below(3)).map(|_| random.below(4)).collect();
                world.wanted.insert(started, hosts);
                world.drive(started);
                started += 1;
            }
            3 if random.below(4) == 0 => world.stop(random.below(40)),
            4..=5 if !world.calls.is_empty() => {
                let (i, unreachable, lost) = (
                    random.below(world.calls.len()),
                    random.below(3) > 0,
                    random.below(10) == 0,
                );
                world.end_call(i, unreachable, lost);
            }
            _ if !world.to_drive.is_empty() => {
                let n = world
                    .to_drive
                    .swap_remove(random.below(world.to_drive.len()));
                world.drive(n);
            }
            _ => {}
        }
        if world.to_drive.is_empty() {
            world.nobody_waits_for_nothing();
        }
        if started == 40 && world.calls.is_empty() && world.to_drive.is_empty() {
            break;
        }
    }
    assert_eq!(world.slots.waiting(), 0, "somebody waits for ever");
    assert!(world.wanted.is_empty(), "{:?}", world.wanted);
}
