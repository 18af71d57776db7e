//! The bookkeeping of a machine's steps: their ids, which of them are under way, and that nothing comes after [`StepKind::Done`].

use super::{Step, StepId, StepKind};
use crate::error::Error;

/// The steps of a machine. `W` is what it remembers of each that is under way: nothing, if it does one at a time.
#[derive(Clone, Debug)]
pub(crate) struct Steps<W = ()> {
    given: StepId,
    under_way: Vec<(StepId, W)>,
    over: bool,
}

impl<W> Default for Steps<W> {
    fn default() -> Self {
        Steps {
            given: 0,
            under_way: Vec::new(),
            over: false,
        }
    }
}

impl<W: Copy + PartialEq> Steps<W> {
    /// Gives out a step.
    pub(crate) fn give(&mut self, who: W, kind: StepKind) -> Step {
        let id = self.given;
        self.given += 1;
        if matches!(kind, StepKind::Done(_)) {
            self.over = true;
        } else {
            self.under_way.push((id, who));
        }
        Step { id, kind }
    }

    /// Whether another step may be given out by a machine that does one at a time; `None` if not.
    pub(crate) fn idle(&self) -> Option<()> {
        (self.under_way.is_empty() && !self.over).then_some(())
    }

    /// Whether another step of this one may be given out; `None` if not.
    pub(crate) fn idle_of(&self, who: W) -> Option<()> {
        let busy = self.under_way.iter().any(|(_, other)| *other == who);
        (!busy && !self.over).then_some(())
    }

    /// How many are under way.
    pub(crate) fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Whose step it is. Error: `Invalid` if it is not under way.
    pub(crate) fn who(&self, id: StepId) -> Result<W, Error> {
        let found = self.under_way.iter().find(|(step, _)| *step == id);
        let who = found.map(|(_, who)| *who);
        who.ok_or_else(|| Error::invalid(format!("no step {id} is under way")))
    }

    /// It is under way no more.
    pub(crate) fn end(&mut self, id: StepId) {
        self.under_way.retain(|(step, _)| *step != id);
    }

    /// Nobody waits any more for the steps of others than this one.
    pub(crate) fn forget_others(&mut self, who: W) {
        self.under_way.retain(|(_, other)| *other == who);
    }

    /// The id of a step of this one, if one is under way.
    #[cfg(test)]
    pub(crate) fn id_of(&self, who: W) -> Option<StepId> {
        let found = self.under_way.iter().find(|(_, other)| *other == who);
        found.map(|(id, _)| *id)
    }
}

/// The error for a fact that does not fit its step.
pub(crate) fn wrong(id: StepId) -> Error {
    Error::invalid(format!("step {id} cannot end with this fact"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Output;
    use bytes::Bytes;

    #[test]
    fn a_step_is_under_way_until_it_ends_and_nothing_comes_after_done() {
        let mut steps = Steps::default();
        let first = steps.give('a', StepKind::Commit);
        let second = steps.give('b', StepKind::Commit);
        assert_ne!(first.id, second.id);
        assert_eq!(steps.who(second.id).expect("under way"), 'b');
        assert!(steps.idle().is_none() && steps.idle_of('a').is_none());
        steps.forget_others('b');
        assert!(steps.who(first.id).is_err() && steps.idle_of('a').is_some());
        steps.end(second.id);
        assert_eq!((steps.idle(), steps.count()), (Some(()), 0));
        let done = StepKind::Done(Ok(Output::from(Bytes::new())));
        let last = steps.give('a', done);
        assert!(steps.who(last.id).is_err() && steps.idle().is_none());
        assert!(steps.idle_of('a').is_none() && steps.idle_of('b').is_none());
    }
}
