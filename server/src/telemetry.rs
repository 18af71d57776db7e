//! Logs: structured lines on stderr, and a limit on how much one transaction may write (faults.md D29).

use crate::config::{LogFormat, LogLevel};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter text cannot be read.
    #[error(
        "AMENDS_LOG = \"{filter}\" is not a log filter ({reason}); an example is amends_server=debug,info"
    )]
    Filter {
        /// The text.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a log subscriber already.
    #[error("logging is set up already in this process")]
    Taken,
}

/// Sends this process's logs to stderr. For programs, never for libraries: it is process-wide.
///
/// `level` holds for Amends itself, other crates log warnings; `filter` (the text of `AMENDS_LOG`) replaces both.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(
    level: LogLevel,
    format: LogFormat,
    filter: Option<&str>,
) -> Result<(), TelemetryError> {
    let own = level.as_str();
    let default = format!("warn,amends={own},amends_server={own}");
    let text = filter.unwrap_or(&default);
    let filter = EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter {
        filter: text.to_owned(),
        reason: error.to_string(),
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so on stderr, and panic when nobody reads that any more.
        .log_internal_errors(false);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match format {
        LogFormat::Json => lines.event_format(JsonLine).try_init(),
        LogFormat::Text => lines.with_ansi(colours).try_init(),
    }
    .map_err(|_| TelemetryError::Taken)
}

/// One JSON object per line: `ts`, `level`, `target`, `message`, then the event's own fields.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ts = amends::time::rfc3339(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let meta = event.metadata();
        write!(
            writer,
            r#"{{"ts":"{ts}","level":"{}","target":"{}","message":{}"#,
            meta.level().as_str().to_lowercase(),
            meta.target(),
            Value::from(fields.message)
        )?;
        for (name, value) in fields.others {
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}

/// Lines that one transaction may write per [`WINDOW`].
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Transactions remembered per generation; two generations are kept.
const GENERATION: usize = 8_192;

/// Limits log lines to five per transaction and minute, so that one that is retried for days does not fill the disk.
///
/// Remembers a bounded number of transactions; those not seen for longest are forgotten first, and may write again.
#[derive(Debug)]
pub struct LogLimiter {
    generations: Mutex<Generations>,
    size: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Window>,
    old: HashMap<String, Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Default for LogLimiter {
    fn default() -> Self {
        LogLimiter {
            generations: Mutex::default(),
            size: GENERATION,
        }
    }
}

impl LogLimiter {
    /// A limiter that has seen nothing yet.
    pub fn new() -> LogLimiter {
        LogLimiter::default()
    }

    /// Whether this transaction may write a line now; if so, how many lines were suppressed since its last one.
    pub fn allow(&self, gid: &str) -> Option<u64> {
        self.allow_at(gid, Instant::now())
    }

    fn allow_at(&self, gid: &str, now: Instant) -> Option<u64> {
        let mut all = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !all.young.contains_key(gid) {
            if all.young.len() >= self.size {
                all.old = std::mem::take(&mut all.young);
            }
            let fresh = Window {
                since: now,
                lines: 0,
                suppressed: 0,
            };
            let window = all.old.remove(gid).unwrap_or(fresh);
            all.young.insert(gid.to_owned(), window);
        }
        let window = all.young.get_mut(gid)?;
        if now.saturating_duration_since(window.since) >= WINDOW {
            window.since = now;
            window.lines = 0;
        }
        if window.lines >= LINES {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lines_a_minute_and_the_next_one_says_how_many_were_left_out() {
        let limiter = LogLimiter::new();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(limiter.allow_at("a", start), Some(0));
        }
        assert_eq!(limiter.allow_at("a", start), None);
        assert_eq!(limiter.allow_at("a", start + WINDOW / 2), None);
        assert_eq!(
            limiter.allow_at("b", start),
            Some(0),
            "others are not affected"
        );
        assert_eq!(limiter.allow_at("a", start + WINDOW), Some(2));
        assert_eq!(limiter.allow_at("a", start + WINDOW), Some(0));
    }

    #[test]
    fn memory_is_bounded_and_the_busy_are_remembered() {
        let limiter = LogLimiter {
            size: 10,
            ..LogLimiter::default()
        };
        let now = Instant::now();
        for _ in 0..=LINES {
            limiter.allow_at("busy", now);
        }
        for i in 0..1_000 {
            limiter.allow_at(&format!("gid-{i}"), now);
            assert_eq!(limiter.allow_at("busy", now), None);
        }
        let all = limiter
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(all.young.len() + all.old.len() <= 20);
    }

    #[test]
    fn a_line_is_one_json_object() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .event_format(JsonLine)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let error = std::io::Error::other("it \"broke\"");
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                gid = "g;1",
                attempts = 3,
                ok = false,
                error,
                "branch\nfailed"
            );
        });
        let text = lines
            .0
            .lock()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.expect("no writer panicked");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).expect("a line is JSON");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "branch\nfailed");
        assert_eq!(line["gid"], "g;1");
        assert_eq!(line["attempts"], 3);
        assert_eq!(line["ok"], false);
        assert_eq!(line["error"], "it \"broke\"");
        assert!(line["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')));
        assert!(
            line["target"]
                .as_str()
                .is_some_and(|t| t.contains("telemetry"))
        );
    }

    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
        type Writer = Lines;

        fn make_writer(&'a self) -> Lines {
            self.clone()
        }
    }
}
