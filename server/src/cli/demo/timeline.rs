//! What happens, a line each, printed while it happens.

use super::grpc::branch_in;
use super::service::branch_of;
use crate::cli::output;
use crate::dispatch::{BranchClient, Reply, Transport};
use amends::wire::call::BranchCall;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// What an answer means to the transfer; a colour on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Wait,
    Bad,
}

/// One call and its answer.
pub(super) struct Entry<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) call: &'a str,
    /// Branch id and op.
    pub(super) branch: &'a str,
    pub(super) answer: &'a str,
    pub(super) tone: Tone,
}

/// Cheap to clone; clones write to the same.
#[derive(Clone)]
pub(super) struct Timeline(Arc<Inner>);

struct Inner {
    style: Style,
    start: Mutex<Instant>,
    /// Changes with each call that nobody answered.
    unanswered: watch::Sender<()>,
}

impl Timeline {
    pub(super) fn new(style: Style) -> Timeline {
        Timeline(Arc::new(Inner {
            style,
            start: Mutex::new(Instant::now()),
            unanswered: watch::Sender::new(()),
        }))
    }

    pub(super) fn style(&self) -> Style {
        self.0.style
    }

    /// Counts time from now on, under a new header.
    pub(super) fn restart(&self) {
        *self.0.start.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let header = line("ms", ["from", "to", "call", "branch"], "answer");
        output::print(&format!("{}\n", self.0.style.faint(&header)));
    }

    pub(super) fn add(&self, entry: &Entry<'_>) {
        let Entry {
            from,
            to,
            call,
            branch,
            answer,
            tone,
        } = *entry;
        let answer = self.0.style.tone(answer, tone);
        let start = self.0.start.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = start.elapsed().as_millis().to_string();
        // Printed under the lock, so that times only rise.
        output::print(&format!(
            "{}\n",
            line(&ms, [from, to, call, branch], &answer)
        ));
    }

    /// Something that is no call.
    pub(super) fn note(&self, text: &str) {
        let start = self.0.start.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = start.elapsed().as_millis();
        let text = format!("{ms:>7}  {text}");
        output::print(&format!("{}\n", self.0.style.faint(&text)));
    }

    /// Changes with each call from now on that nobody answers.
    pub(super) fn unanswered(&self) -> watch::Receiver<()> {
        self.0.unanswered.subscribe()
    }
}

fn line(ms: &str, [from, to, call, branch]: [&str; 4], answer: &str) -> String {
    let line = format!("{ms:>7}  {from:<12}  {to:<12}  {call:<20}  {branch:<13}  {answer}");
    line.trim_end().to_owned()
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) colour: bool,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub(super) fn of_stdout() -> Style {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let plain = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            colour: std::io::stdout().is_terminal() && !unwanted && !plain,
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint(text, "1")
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint(text, "2")
    }

    pub(super) fn tone(self, text: &str, tone: Tone) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.paint(text, "32"),
            Tone::Wait => self.paint(text, "33"),
            Tone::Bad => self.paint(text, "31"),
        }
    }

    fn paint(self, text: &str, code: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The coordinator's own client. It tells the timeline of calls that no bank could have seen.
pub(super) struct Watched {
    pub(super) inner: BranchClient,
    pub(super) timeline: Timeline,
    pub(super) names: Vec<(SocketAddr, &'static str)>,
}

impl Transport for Watched {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, Reply> {
        let timeline = self.timeline.clone();
        let (host, what, branch) = match &call {
            BranchCall::Http(call) => {
                let method = if call.post { "POST" } else { "GET" };
                let url = call.url.strip_prefix("http://").unwrap_or(&call.url);
                let (host, rest) = url.split_at(url.find('/').unwrap_or(url.len()));
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                (host, format!("{method} {path}"), branch_of(query))
            }
            BranchCall::Grpc(call) => {
                let url = call.url.strip_prefix("grpc://").unwrap_or(&call.url);
                let (host, method) = url.split_once('/').unwrap_or((url, ""));
                let branch = branch_in(|key| {
                    let mut pairs = call.metadata.iter();
                    pairs
                        .find(|(name, _)| name == key)
                        .map(|(_, value)| &**value)
                });
                (host, method.to_owned(), branch)
            }
        };
        let is_host = |address: &SocketAddr| address.to_string() == host;
        let named = self.names.iter().find(|(address, _)| is_host(address));
        let to = named.map_or(host, |(_, name)| name).to_owned();
        let branch = format!("{} {}", branch.branch_id, branch.op);
        let reply = self.inner.call(call);
        let watched = async move {
            let reply = reply.await;
            if reply.unreachable {
                timeline.add(&Entry {
                    from: "coordinator",
                    to: &to,
                    call: &what,
                    branch: &branch,
                    answer: "nobody answers",
                    tone: Tone::Bad,
                });
                timeline.0.unanswered.send_replace(());
            }
            reply
        };
        watched.boxed()
    }
}
