//! Runs beside and after each other: whatever any of them began is undone if the workflow fails.

use super::testing::{Coordinator, Host, added, workflow};
use super::*;
use crate::machine::{Machine, Step, StepId};

fn coordinator(dtm: bool) -> Coordinator {
    Coordinator {
        dtm,
        ..Coordinator::open()
    }
}

fn given_up() -> Result<Bytes, Error> {
    Err(Error::new(ErrorKind::Failure, "given up"))
}

fn kind(result: Option<Result<Bytes, Error>>) -> Option<ErrorKind> {
    result.expect("no crash").err().map(|error| error.kind())
}

/// Begins the work of a step, and leaves it under way.
fn begun(machine: &mut Workflow, name: &str) -> StepId {
    let part = added(machine, name);
    machine.action(part, Work::Run).expect("named");
    match machine.poll() {
        Some(Step {
            id,
            kind: StepKind::RunUser(_),
        }) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_is_not_given_up_that_another_run_has_recorded() {
    for dtm in [false, true] {
        let mut c = coordinator(dtm);
        let (mut one, mut two) = (workflow(1), workflow(2));
        let unknown = [("02-action", Err(ErrorKind::OutcomeUnknown))];
        let mut host = Host::new(&mut c).answers(&unknown);
        host.go(&mut one).expect("no crash").expect("open");
        assert_eq!(kind(host.step(&mut one, "a")), None);
        let unclear = kind(host.step(&mut one, "b"));
        assert_eq!(unclear, Some(ErrorKind::OutcomeUnknown));

        // The other one records this step, and begins the next.
        let mut host = Host::new(&mut c);
        host.go(&mut two).expect("no crash").expect("open");
        assert_eq!(kind(host.step(&mut two, "a")), None);
        assert_eq!(kind(host.step(&mut two, "b")), None);
        let third = begun(&mut two, "c");

        assert_eq!(
            kind(host.end(&mut one, given_up())),
            Some(ErrorKind::LostRace)
        );
        two.resolve(third, Fact::UserOk(Bytes::new()))
            .expect("fits");
        let done = Ok(Bytes::from("done"));
        host.go(&mut two);
        assert_eq!(host.end(&mut two, done.clone()), Some(done));
        assert!(host.ran.iter().all(|ran| !ran.ends_with("rollback")));
        assert_eq!(c.status, "succeed");
    }
}

#[test]
fn a_step_that_was_given_up_is_not_recorded_as_done_by_another_run() {
    for dtm in [false, true] {
        let mut c = coordinator(dtm);
        let (mut one, mut two) = (workflow(1), workflow(2));
        let mut host = Host::new(&mut c);
        host.go(&mut two).expect("no crash").expect("open");
        let first = begun(&mut two, "a");
        let unknown = [("01-action", Err(ErrorKind::OutcomeUnknown))];
        host = host.answers(&unknown);
        host.go(&mut one).expect("no crash").expect("open");
        let unclear = kind(host.step(&mut one, "a"));
        assert_eq!(unclear, Some(ErrorKind::OutcomeUnknown));
        assert_eq!(
            kind(host.end(&mut one, given_up())),
            Some(ErrorKind::Failure)
        );
        two.resolve(first, Fact::UserOk(Bytes::new()))
            .expect("fits");
        host.go(&mut two);
        assert_eq!(
            two.result(0).map(|result| result.map_err(|e| e.kind())),
            Some(Err(ErrorKind::LostRace))
        );
        assert_eq!(host.ran, ["01-action", "01-rollback"]);
    }
}

/// It gave up, and was stopped before it decided: what it gave up may have been done, so the next run must not commit, whatever its body
/// makes of a refusal.
#[test]
fn what_was_given_up_is_never_committed() {
    let mut c = Coordinator::open();
    let mut one = workflow(1);
    let unknown = [("01-action", Err(ErrorKind::OutcomeUnknown))];
    let mut host = Host::new(&mut c).answers(&unknown);
    host.go(&mut one).expect("no crash").expect("open");
    let _ = host.step(&mut one, "a");
    host.until = host.steps + 1;
    assert_eq!(host.end(&mut one, given_up()), None);
    assert_eq!(host.coordinator.names(), ["01-action"]);

    let mut two = workflow(2);
    let mut host = Host::new(&mut c);
    host.go(&mut two).expect("no crash").expect("open");
    assert_eq!(kind(host.step(&mut two, "a")), Some(ErrorKind::Failure));
    assert_eq!(kind(host.step(&mut two, "instead")), None);
    let ended = host.end(&mut two, Ok(Bytes::new()));
    assert_eq!(kind(ended), Some(ErrorKind::Failure));
    assert_eq!(host.ran, ["02-action", "02-rollback", "01-rollback"]);
    assert_eq!(c.reason, "given up");
}

/// Branches side by side: when one is replayed as refused, a body may end before it comes to the others, which were begun all the same.
#[test]
fn branches_that_a_replay_does_not_come_to_are_undone() {
    for recorded in [true, false] {
        let mut c = Coordinator::open();
        let mut one = workflow(1);
        let refused = [("01-action", Err(ErrorKind::Failure))];
        let mut host = Host::new(&mut c).answers(&refused);
        host.go(&mut one).expect("no crash").expect("open");
        let (left, right) = (added(&mut one, "left"), added(&mut one, "right"));
        if recorded {
            one.action(right, Work::Run).expect("named");
            assert_eq!(kind(host.part(&mut one, right)), None);
        }
        one.action(left, Work::Run).expect("named");
        assert_eq!(kind(host.part(&mut one, left)), Some(ErrorKind::Failure));

        let mut two = workflow(2);
        let mut host = Host::new(&mut c);
        host.go(&mut two).expect("no crash").expect("open");
        let (left, _right) = (added(&mut two, "left"), added(&mut two, "right"));
        two.action(left, Work::Run).expect("named");
        let refused = kind(host.part(&mut two, left));
        assert_eq!(refused, Some(ErrorKind::Failure));
        let ended = host.end(&mut two, Err(Error::new(ErrorKind::Failure, "no")));
        assert_eq!(kind(ended), Some(ErrorKind::Failure));
        assert_eq!(host.ran, ["02-rollback", "01-rollback"]);
        assert_eq!(c.status, "failed");
    }
}

/// What a coordinator, or a proxy before it, answers is about the request: it never says that the workflow failed.
#[test]
fn a_refusal_by_the_coordinator_is_no_business_failure() {
    for route in ["prepareWorkflow", "registerBranch", "submit"] {
        for body in [&["a"][..], &[]] {
            let mut c = Coordinator {
                refuses: Some(route),
                ..Coordinator::open()
            };
            let ended = Host::new(&mut c).run(workflow(1), body);
            if route == "registerBranch" && body.is_empty() {
                assert!(ended.expect("no crash").is_ok(), "it makes none");
                continue;
            }
            assert_eq!(kind(ended), Some(ErrorKind::Internal), "{route}");
            assert_eq!(c.status, "prepared");
        }
    }
}
