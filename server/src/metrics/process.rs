//! The metrics of the process itself.

use super::register;
use prometheus::{Counter, Gauge, IntGauge, Registry};

/// What Linux tells about this process, under the names every Prometheus client uses. Elsewhere they stay at zero.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    open_fds: IntGauge,
    start: Gauge,
}

impl Process {
    /// The kernel's unit of times in `/proc`, on every architecture.
    const TICKS: f64 = 100.0;

    pub(super) fn new(r: &Registry) -> Process {
        Process {
            cpu: register(
                r,
                Counter::new(
                    "process_cpu_seconds_total",
                    "Total user and system CPU time spent in seconds.",
                ),
            ),
            resident: register(
                r,
                IntGauge::new(
                    "process_resident_memory_bytes",
                    "Resident memory size in bytes.",
                ),
            ),
            open_fds: register(
                r,
                IntGauge::new("process_open_fds", "Number of open file descriptors."),
            ),
            start: register(
                r,
                Gauge::new(
                    "process_start_time_seconds",
                    "Start time of the process since unix epoch in seconds.",
                ),
            ),
        }
    }

    pub(super) fn read(&self) {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        // The name, in parentheses, may hold spaces.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map_or("", |(_, f)| f)
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0.0))
            .collect();
        if let (Some(user), Some(system), Some(start)) =
            (fields.get(11), fields.get(12), fields.get(19))
        {
            self.cpu
                .inc_by(((user + system) / Process::TICKS - self.cpu.get()).max(0.0));
            if self.start.get() == 0.0 {
                self.start
                    .set(number_after(&text("/proc/stat"), "btime") + start / Process::TICKS);
            }
        }
        self.resident
            .set(number_after(&text("/proc/self/status"), "VmRSS:") as i64 * 1_024);
        // The listing itself holds one.
        self.open_fds
            .set(std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as i64 - 1));
    }
}

fn number_after(text: &str, word: &str) -> f64 {
    let line = text.lines().find_map(|l| l.strip_prefix(word));
    line.and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}
