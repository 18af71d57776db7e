//! The disk's own sync time: what one durable write costs without a store around it.

use crate::error::BenchError;
use crate::stats::Latencies;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Appends of 4 KiB, each followed by fdatasync: at most `count` of them and at most `limit` long, at least one.
pub(crate) fn sync_times(
    folder: &Path,
    count: usize,
    limit: Duration,
) -> Result<Latencies, BenchError> {
    let what = || format!("syncing a file in {}", folder.display());
    let mut file = tempfile::tempfile_in(folder).map_err(BenchError::io(what()))?;
    let block = [0x5a_u8; 4096];
    let mut latencies = Latencies::default();
    let started = Instant::now();
    while latencies.len() < count && (latencies.len() == 0 || started.elapsed() < limit) {
        let before = Instant::now();
        file.write_all(&block).map_err(BenchError::io(what()))?;
        file.sync_data().map_err(BenchError::io(what()))?;
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_counted_and_limited() {
        let folder = tempfile::tempdir().unwrap();
        let times = sync_times(folder.path(), 3, Duration::from_secs(60)).unwrap();
        assert_eq!(times.len(), 3);
        let times = sync_times(folder.path(), 1_000_000, Duration::ZERO).unwrap();
        assert_eq!(times.len(), 1);
        let missing = folder.path().join("missing");
        let error = sync_times(&missing, 1, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("missing"));
    }
}
