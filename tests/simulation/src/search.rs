//! The exhaustive search: every order of events of a small world, with a few faults at every place where they can happen.
//!
//! Messages and writes of the store may happen in any order and at no cost of time; time goes on only when nothing else is left to
//! happen. One message may be slow: time then goes on while it is under way. Worlds that differ in nothing that matters later are
//! visited once.

use crate::Broken;
use crate::network::CallState;
use crate::plan::{Plan, Small, Weather};
use crate::rng::Rng;
use crate::store::Write;
use crate::world::{Event, World};
use amends::Millis;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write as _};
use std::hash::Hasher;
use std::rc::Rc;

/// Events on one path after which it is taken for one that never ends.
const DEEPEST: u32 = 600;

/// How many faults a path may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Crashes of the coordinator.
    pub crashes: u8,
    /// Lost messages.
    pub lost: u8,
    /// Doubled messages.
    pub doubled: u8,
    /// Messages that are so slow that timers run out.
    pub slow: u8,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Worlds that differ.
    pub states: usize,
    /// Worlds at an end.
    pub ends: usize,
    /// Whether there were more states than allowed, so that some were not visited.
    pub cut: bool,
    /// The first broken invariant, and the events that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// One way to a state, for the report.
struct Path {
    label: String,
    before: Option<Rc<Path>>,
}

#[derive(Clone)]
struct Node {
    world: World,
    left: Faults,
    /// The key of the message that is slow.
    slow: Option<(Millis, u64)>,
    depth: u32,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Happens((Millis, u64)),
    Lost((Millis, u64)),
    Doubled((Millis, u64)),
    Slow((Millis, u64)),
    Crash(usize),
}

/// Visits every state that a small world can reach with these faults, at most `most`.
pub fn search(small: &Small, faults: Faults, broken: Option<Broken>, most: usize) -> Found {
    let mut world = World::of(
        vec![Plan::small(small)],
        Weather::default(),
        Rng::still(),
        broken,
    );
    world.calm_at = Millis::MIN;
    world.start_clients();
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let mut stack = vec![(
        Node {
            world,
            left: faults,
            slow: None,
            depth: 0,
        },
        None::<Rc<Path>>,
    )];
    while let Some((mut node, path)) = stack.pop() {
        node.forget_stale();
        if node.world.violation.is_none() && !seen.insert(node.fingerprint()) {
            continue;
        }
        if found.states >= most {
            found.cut = true;
            return found;
        }
        found.states += 1;
        let choices = if node.world.violation.is_some() {
            Vec::new()
        } else {
            node.choices()
        };
        if choices.is_empty() {
            found.ends += 1;
            if node.world.violation.is_none() {
                node.world.check_end();
            }
        }
        if let Some(what) = node.world.violation {
            found.violation = Some((what, steps_of(path)));
            return found;
        }
        for choice in choices {
            let label = node.label(choice);
            let path = Some(Rc::new(Path {
                label,
                before: path.clone(),
            }));
            stack.push((node.after(choice), path));
        }
    }
    found
}

fn steps_of(mut path: Option<Rc<Path>>) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some(p) = path {
        steps.push(p.label.clone());
        path = p.before.clone();
    }
    steps.reverse();
    steps
}

impl Node {
    /// Events that would do nothing make no difference.
    fn forget_stale(&mut self) {
        let w = &self.world;
        let stale = |event: &Event| match event {
            Event::Client { client, op } | Event::Answered { client, op, .. } => {
                w.clients[*client].dead || w.clients[*client].op != *op
            }
            Event::Timeout { call } | Event::Reply { call, .. } => {
                w.calls[*call].ended || w.calls[*call].life != w.life
            }
            Event::Timer { life, tx } => {
                *life != w.life
                    || w.process
                        .as_ref()
                        .is_none_or(|p| !p.drivers.contains_key(tx))
            }
            Event::Due { life, .. } | Event::Replies { life, .. } => *life != w.life,
            Event::Commit => w.store.queue.is_empty(),
            _ => false,
        };
        let gone: Vec<_> = w
            .queue
            .iter()
            .filter(|(_, e)| stale(e))
            .map(|(k, _)| *k)
            .collect();
        for key in gone {
            if matches!(self.world.queue.remove(&key), Some(Event::Commit)) {
                self.world.committing = false;
            }
        }
        if self
            .slow
            .is_some_and(|key| !self.world.queue.contains_key(&key))
        {
            self.slow = None;
        }
    }

    fn is_timer(&self, at: Millis, event: &Event) -> bool {
        let timer = matches!(
            event,
            Event::Client { .. } | Event::Timeout { .. } | Event::Timer { .. } | Event::Due { .. }
        );
        timer && at > self.world.now
    }

    fn choices(&self) -> Vec<Choice> {
        let w = &self.world;
        if self.depth > DEEPEST || (w.all_ended() && w.quiet()) {
            return Vec::new();
        }
        let mut choices = Vec::new();
        let mut waits = false;
        let mut timers: Vec<(Millis, u64)> = Vec::new();
        for (key, event) in &w.queue {
            if self.is_timer(key.0, event) {
                timers.push(*key);
                continue;
            }
            choices.push(Choice::Happens(*key));
            waits |= self.slow != Some(*key);
            let message = matches!(
                event,
                Event::Arrive { .. }
                    | Event::Answered { .. }
                    | Event::Direct { .. }
                    | Event::Deliver { .. }
                    | Event::Reply { .. }
            );
            if message && self.slow != Some(*key) && w.can_be_lost(event) {
                if self.left.lost > 0 {
                    choices.push(Choice::Lost(*key));
                }
                if self.left.slow > 0 && self.slow.is_none() {
                    choices.push(Choice::Slow(*key));
                }
                let barrier = !matches!(event, Event::Deliver { .. }) || w.plans[0].barrier;
                let once = matches!(event, Event::Answered { .. } | Event::Reply { .. });
                if self.left.doubled > 0 && barrier && !once {
                    choices.push(Choice::Doubled(*key));
                }
            }
        }
        if !waits {
            let first = timers.first().map(|k| k.0);
            choices.extend(
                timers
                    .iter()
                    .filter(|k| Some(k.0) == first)
                    .map(|k| Choice::Happens(*k)),
            );
        }
        if self.left.crashes > 0 && w.process.is_some() {
            choices.extend((0..=w.store.queue.len()).map(Choice::Crash));
        }
        choices
    }

    fn label(&self, choice: Choice) -> String {
        let (word, key) = match choice {
            Choice::Happens(key) => ("", key),
            Choice::Lost(key) => ("LOST ", key),
            Choice::Doubled(key) => ("DOUBLED ", key),
            Choice::Slow(key) => ("SLOW ", key),
            Choice::Crash(kept) => return format!("CRASH, {kept} queued writes are durable"),
        };
        let event = self.world.queue.get(&key);
        let mut text = format!("{} {word}", self.world.now);
        if let Some(event) = event {
            let _ = write!(text, "{event:?}");
        }
        text.truncate(text.char_indices().nth(300).map_or(text.len(), |(i, _)| i));
        text
    }

    fn after(&self, choice: Choice) -> Node {
        let mut next = self.clone();
        next.depth += 1;
        match choice {
            Choice::Happens(key) => next.happens(key),
            Choice::Lost(key) => {
                next.left.lost -= 1;
                if let Some(Event::Deliver { call }) = next.world.queue.remove(&key) {
                    next.world.calls[call].pending -= 1;
                }
            }
            Choice::Doubled(key) => {
                next.left.doubled -= 1;
                if let Some(event) = next.world.queue.get(&key).cloned() {
                    if let Event::Deliver { call } = event {
                        next.world.calls[call].pending += 1;
                    }
                    next.world.after(1, event);
                }
                next.happens(key);
            }
            Choice::Slow(key) => {
                next.left.slow -= 1;
                next.slow = Some(key);
            }
            Choice::Crash(kept) => {
                next.left.crashes -= 1;
                next.world.crash(kept, 5);
            }
        }
        next
    }

    fn happens(&mut self, key: (Millis, u64)) {
        let Some(event) = self.world.queue.remove(&key) else {
            return;
        };
        if self.is_timer(key.0, &event) {
            self.world.now = key.0;
        }
        let commit = matches!(event, Event::Commit);
        self.world.handle(event);
        // What can happen between a commit and its answers can happen before it as well; a crash can keep what is queued.
        if commit {
            let replies = self
                .world
                .queue
                .iter()
                .find(|(_, e)| matches!(e, Event::Replies { .. }))
                .map(|(k, _)| *k);
            if let Some(event) = replies.and_then(|key| self.world.queue.remove(&key)) {
                self.world.handle(event);
            }
        }
    }

    /// Two worlds with the same fingerprint have the same future: what is over, and what things are numbered, makes no difference.
    fn fingerprint(&self) -> u64 {
        let w = &self.world;
        let mut f = Fingerprint::default();
        let mut messages: Vec<u64> = w
            .queue
            .iter()
            .map(|(key, event)| self.message(*key, event))
            .collect();
        messages.sort_unstable();
        let _ = write!(
            f,
            "{messages:?} {} {:?} {} {:?} {}",
            w.now,
            self.left,
            w.committing,
            w.sites,
            w.process.is_some()
        );
        if let Some(p) = &w.process {
            p.remember(w.now, &mut f);
        }
        for ledger in &w.ledgers {
            ledger.remember(w.now, &mut f);
        }
        for call in w.calls.iter().filter(|c| !c.ended || c.pending > 0) {
            self.call(call, &mut f);
        }
        for c in &w.clients {
            let _ = if c.dead {
                f.write_str("dead")
            } else {
                write!(f, "{:?} {} {} {:?}", c.role, c.at, c.tries, c.act)
            };
        }
        for queued in &w.store.queue {
            let waited = w.process.as_ref().is_some_and(|p| p.waits_for(queued));
            let _ = write!(f, "{} {waited}", queued.tx);
            match &queued.write {
                Write::Save(seq, _, save) => {
                    let version = w.store.records.get(&queued.tx).map_or(0, |s| s.version);
                    let _ = write!(
                        f,
                        "{seq} {} {:?} {}",
                        save.base.wrapping_sub(version),
                        save.index,
                        save.parts.len()
                    );
                    f.0.write(&save.state);
                }
                other => {
                    let _ = write!(f, "{other:?}");
                }
            }
        }
        for stored in w.store.records.values() {
            let _ = write!(
                f,
                "{:?} {} {} {}",
                stored.index,
                stored.exact,
                stored.held,
                stored.parts.len()
            );
            f.0.write(&stored.state);
        }
        f.0.finish()
    }

    fn call(&self, c: &CallState, f: &mut Fingerprint) {
        let own = c.life == self.world.life;
        let _ = write!(
            f,
            "{:?} {:?} {own} {} {} {} {}",
            c.id, c.target, c.gives_up, c.pending, c.ended, c.answered
        );
    }

    fn message(&self, key: (Millis, u64), event: &Event) -> u64 {
        let w = &self.world;
        let mut f = Fingerprint::default();
        let at = if self.is_timer(key.0, event) {
            key.0
        } else {
            0
        };
        let _ = write!(f, "{at} {}", self.slow == Some(key));
        match event {
            Event::Deliver { call } => {
                let _ = f.write_str("deliver");
                self.call(&w.calls[*call], &mut f);
            }
            Event::Reply { call, outcome } => {
                let _ = write!(f, "reply {outcome:?}");
                self.call(&w.calls[*call], &mut f);
            }
            Event::Timeout { call } => {
                let _ = f.write_str("timeout");
                self.call(&w.calls[*call], &mut f);
            }
            Event::Arrive { client, op, verb } => {
                let awaited = w.clients[*client].op == *op;
                let _ = write!(f, "arrive {client} {awaited} {verb:?}");
            }
            Event::Answered { client, op, answer } => {
                let _ = write!(
                    f,
                    "answered {client} {} {answer:?}",
                    w.clients[*client].op == *op
                );
            }
            Event::Client { client, op } => {
                let _ = write!(f, "client {client} {}", w.clients[*client].op == *op);
            }
            Event::Direct {
                client,
                op,
                branch,
                kind,
            } => {
                let _ = write!(
                    f,
                    "direct {client} {} {branch} {kind:?}",
                    w.clients[*client].op == *op
                );
            }
            other => {
                let _ = write!(f, "{other:?}");
            }
        }
        f.0.finish()
    }
}

/// Hashes what is written to it.
#[derive(Default)]
struct Fingerprint(DefaultHasher);

impl fmt::Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
