//! `amends topic`: topics of a running server.

use super::client::{Client, Remote};
use super::{EXIT_CODES, Exit, Failure, output};
use clap::Subcommand;
use serde_json::{Value, json};

const HELP: &str = "\
A message whose action is topic://NAME goes to every subscriber that NAME had when it was stored.

Examples:
  amends topic subscribe orders http://stock:8080/on-order --remark \"stock service\"
  amends topic list
  amends topic unsubscribe orders http://stock:8080/on-order
  amends topic delete orders";

/// Topics of a running server
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"), arg_required_else_help = true)]
pub(super) struct Topic {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List topics and their subscribers
    List,
    /// Add a subscriber; the topic is made if there is none
    Subscribe {
        /// Name of the topic
        topic: String,
        /// URL that messages are sent to
        url: String,
        /// A note that is shown in lists
        #[arg(long, default_value = "")]
        remark: String,
    },
    /// Remove a subscriber
    Unsubscribe {
        /// Name of the topic
        topic: String,
        /// URL of the subscriber
        url: String,
    },
    /// Remove a topic with all subscribers
    Delete {
        /// Name of the topic
        topic: String,
    },
}

impl Topic {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.remote.client()?;
        let json = self.remote.json;
        let (answer, text) = match self.verb {
            Verb::List => return list(&client, json),
            Verb::Subscribe { topic, url, remark } => {
                let query = [
                    ("topic", topic.as_str()),
                    ("url", &url),
                    ("remark", &remark),
                ];
                let answer = client.get("subscribe", &query);
                (
                    answer.map_err(|failure| told(failure, &topic, &url))?,
                    format!("{url} is subscribed to {topic}"),
                )
            }
            Verb::Unsubscribe { topic, url } => {
                let query = [("topic", topic.as_str()), ("url", &url)];
                let answer = client.get("unsubscribe", &query);
                (
                    answer.map_err(|failure| told(failure, &topic, &url))?,
                    format!("{url} is no longer subscribed to {topic}"),
                )
            }
            Verb::Delete { topic } => {
                let answer = client.delete("topic", &topic);
                (
                    answer.map_err(|failure| told(failure, &topic, ""))?,
                    format!("{topic} is deleted"),
                )
            }
        };
        output::done(&answer, json, &text);
        Ok(())
    }
}

/// A refusal with names in it: the server's texts are DTM's, which clients may compare.
fn told(failure: Failure, topic: &str, url: &str) -> Failure {
    let message = match (failure.exit, failure.message.trim_end()) {
        (Exit::NotFound, "storage: NotFound" | "no such a topic") => {
            format!("there is no topic {topic}")
        }
        (Exit::NotFound, "this topic is empty" | "no such an url") => {
            format!("{url} is not subscribed to {topic}")
        }
        (Exit::Refused, "this url exists") => format!("{url} is subscribed already to {topic}"),
        _ => return failure,
    };
    Failure::new(failure.exit, message)
}

fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let mut topics = Vec::new();
    let mut position = String::new();
    loop {
        let answer = client.get("scanKV", &[("cat", "topics"), ("position", &position)])?;
        let page = answer["kv"].as_array().into_iter().flatten();
        topics.extend(page.map(|kv| (output::cell(&kv["k"]), subscribers(kv))));
        match answer["next_position"].as_str() {
            Some(next) if !next.is_empty() && next != position => position = next.to_owned(),
            _ => break,
        }
    }
    if json {
        let list = topics
            .into_iter()
            .map(|(topic, to)| json!({ "topic": topic, "subscribers": to }));
        output::print_json(&Value::Array(list.collect()));
        return Ok(());
    }
    let rows = topics.iter().flat_map(|(topic, to)| {
        let to: Vec<&Value> = to.as_array().into_iter().flatten().collect();
        // A topic without subscribers is shown too: messages to it fail.
        let none = to
            .is_empty()
            .then(|| vec![topic.clone(), "(nobody)".to_owned(), String::new()]);
        let row = |s: &Value| {
            vec![
                topic.clone(),
                output::cell(&s["url"]),
                output::cell(&s["remark"]),
            ]
        };
        none.into_iter()
            .chain(to.into_iter().map(row))
            .collect::<Vec<_>>()
    });
    output::print(&output::table(
        &["TOPIC", "SUBSCRIBER", "REMARK"],
        rows.collect(),
    ));
    Ok(())
}

/// A topic's list of subscribers, which the server answers as JSON within a string.
fn subscribers(kv: &Value) -> Value {
    let text = kv["v"].as_str().unwrap_or("[]");
    serde_json::from_str(text).unwrap_or_else(|_| json!([]))
}
