//! Reads counters of Prometheus text.

use crate::error::BenchError;
use crate::http::Target;
use std::time::Duration;

/// Counter of the store's syncs.
pub(crate) const SYNCS: &str = "amends_store_syncs_total";
/// Counter of transactions whose final status is durable.
pub(crate) const FINISHED: &str = "amends_transactions_finished_total";
/// Gauge of unfinished transactions.
pub(crate) const UNFINISHED: &str = "amends_transactions_unfinished";

/// One look at a coordinator's `/api/metrics`; empty where it has none.
#[derive(Debug)]
pub(crate) struct Scrape {
    text: String,
}

impl Scrape {
    /// Asks for the metrics.
    pub(crate) async fn take(target: &Target) -> Result<Scrape, BenchError> {
        let (status, body) = target.get("/api/metrics", Duration::from_secs(30)).await?;
        let text = if status.is_success() {
            String::from_utf8_lossy(&body).into_owned()
        } else {
            String::new()
        };
        Ok(Scrape { text })
    }

    /// The sum over all label values of a metric, or nothing if the coordinator has no such metric.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let mut sum = None;
        for line in self.text.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            if !rest.starts_with(['{', ' ']) {
                continue;
            }
            // Labels may hold spaces; what follows the last brace is the value and perhaps a time.
            let values = rest.rsplit_once('}').map_or(rest, |(_, values)| values);
            let value = values.split_whitespace().next();
            if let Some(value) = value.and_then(|value| value.parse::<f64>().ok()) {
                *sum.get_or_insert(0.0) += value;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_only() {
        let scrape = Scrape {
            text: concat!(
                "# HELP amends_x_total how many\n# TYPE amends_x_total counter\n",
                "amends_x_total{mode=\"a } b\",status=\"ok\"} 3\n",
                "amends_x_total{mode=\"saga\"} 4 1700000000000\n",
                "amends_x_total_created 99\namends_y 1.5\n"
            )
            .to_owned(),
        };
        assert_eq!(scrape.sum("amends_x_total"), Some(7.0));
        assert_eq!(scrape.sum("amends_y"), Some(1.5));
        assert_eq!(scrape.sum("amends_x"), None);
    }
}
