//! Latencies and medians, exact: every sample is kept and sorted at the end.

use std::time::Duration;

/// Latencies of one measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    nanos: Vec<u64>,
    sorted: bool,
}

impl Latencies {
    /// Adds one sample.
    pub(crate) fn push(&mut self, latency: Duration) {
        self.nanos
            .push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        self.sorted = false;
    }

    /// Samples so far.
    pub(crate) fn len(&self) -> usize {
        self.nanos.len()
    }

    /// The smallest sample that at least `percent` of all samples do not exceed (nearest rank), in milliseconds.
    /// 0 when there are no samples.
    pub(crate) fn percentile_ms(&mut self, percent: f64) -> f64 {
        if self.nanos.is_empty() {
            return 0.0;
        }
        if !self.sorted {
            self.nanos.sort_unstable();
            self.sorted = true;
        }
        // The small allowance keeps 99.9 % of 1000 at rank 999 although 99.9 has no exact binary form.
        let rank = (percent / 100.0 * self.nanos.len() as f64 - 1e-9).ceil() as usize;
        let index = rank.clamp(1, self.nanos.len()) - 1;
        self.nanos[index] as f64 / 1e6
    }
}

/// The middle value, or the mean of the two middle ones; 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        for ms in millis {
            latencies.push(Duration::from_millis(ms));
        }
        latencies
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut thousand = of((1..=1000).rev());
        assert_eq!(thousand.percentile_ms(50.0), 500.0);
        assert_eq!(thousand.percentile_ms(99.0), 990.0);
        assert_eq!(thousand.percentile_ms(99.9), 999.0);
        assert_eq!(thousand.percentile_ms(100.0), 1000.0);
        assert_eq!(thousand.percentile_ms(0.0), 1.0);
    }

    #[test]
    fn few_samples_give_the_sample_that_covers_the_share() {
        assert_eq!(of([7]).percentile_ms(99.9), 7.0);
        assert_eq!(of([3, 1, 2]).percentile_ms(50.0), 2.0);
        assert_eq!(of([3, 1, 2]).percentile_ms(67.0), 3.0);
        assert_eq!(of([]).percentile_ms(50.0), 0.0);
    }

    #[test]
    fn a_sample_after_a_percentile_counts_in_the_next() {
        let mut latencies = of([5, 6]);
        assert_eq!(latencies.percentile_ms(100.0), 6.0);
        latencies.push(Duration::from_millis(1));
        assert_eq!(latencies.percentile_ms(1.0), 1.0);
        assert_eq!(latencies.len(), 3);
    }

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[]), 0.0);
    }
}
