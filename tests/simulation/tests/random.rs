//! 120,000 runs under faults, each from its own seed; `amends-simulation --runs N` is the long mode.

use amends_simulation::{run, run_many};

#[test]
fn no_invariant_breaks_in_120_000_faulty_runs() {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let total = run_many(0, 120_000, None, None, threads, 1);
    println!(
        "{} runs, {} events, {} steps of the coordinator, {} crashes",
        total.runs, total.events, total.steps, total.crashes
    );
    let replay =
        |seed: u64| format!("replay: cargo run -p amends-simulation -- --seed {seed} --trace");
    assert!(
        total.failures.is_empty(),
        "{:#?}",
        total
            .failures
            .iter()
            .map(|(seed, what)| (what, replay(*seed)))
            .collect::<Vec<_>>()
    );
    assert_eq!(total.runs, 120_000);
    assert!(
        total.crashes > 50_000,
        "the weather is too kind: {} crashes",
        total.crashes
    );
}

#[test]
fn a_seed_makes_one_run() {
    for seed in 0..200 {
        let (a, b) = (run(seed, None, None, false), run(seed, None, None, false));
        assert_eq!(
            (a.events, a.steps, a.crashes, a.violation),
            (b.events, b.steps, b.crashes, b.violation),
            "seed {seed}"
        );
    }
}
