//! Every order of events in small worlds: each mode with two branches, one crash, one lost, one doubled and one slow message.

use amends::TransType;
use amends_simulation::{Faults, Small, search};

const SAGA: Small = Small {
    trans_type: TransType::Saga,
    branches: 2,
    concurrent: false,
    refuses: None,
    barrier: true,
    commits: true,
    timeout_to_fail: 0,
};

fn holds(name: &str, small: Small, faults: Faults) -> usize {
    let found = search(&small, faults, None, 3_000_000);
    println!("{name}: {} states, {} ends{}", found.states, found.ends, if found.cut { ", CUT" } else { "" });
    if let Some((what, steps)) = found.violation {
        panic!("{name}: {what}\n{}", steps.join("\n"));
    }
    found.states
}

#[test]
fn probe() {
    for (name, faults) in [
        ("all", Faults { crashes: 1, lost: 1, doubled: 1, slow: 1 }),
    ] {
        for trans_type in TransType::ALL {
            let start = std::time::Instant::now();
            holds(&format!("{trans_type} {name}"), Small { trans_type: *trans_type, refuses: Some(1), ..SAGA }, faults);
            println!("   {:?}", start.elapsed());
        }
    }
}
