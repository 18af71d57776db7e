//! `amends tx`: transactions of a running server.

use super::client::{Client, Remote};
use super::{EXIT_CODES, Exit, Failure, output};
use amends::limits::cut;
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

const HELP: &str = "\
Examples:
  amends tx list
  amends tx list --status submitted --type saga --limit 20
  amends tx show 5vFpQnLRZJEnPVx6NDV5xM
  amends tx retry 5vFpQnLRZJEnPVx6NDV5xM
  amends tx stop 5vFpQnLRZJEnPVx6NDV5xM --reason \"refunded by hand, ticket 17\"
  amends tx list --json | jq '.transactions[].gid'";

const STOP_HELP: &str = "\
The transaction becomes failed at once and no further call is made: nothing is compensated. What its
branches did stays done, so this is the last resort, after somebody repaired the data by hand.

Example:
  amends tx stop 5vFpQnLRZJEnPVx6NDV5xM --reason \"refunded by hand, ticket 17\"";

/// Transactions of a running server
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"), arg_required_else_help = true)]
pub(super) struct Tx {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List transactions
    List {
        /// Only those in this status
        #[arg(long, value_parser = PossibleValuesParser::new(["prepared", "submitted", "aborting", "succeed", "failed"]))]
        status: Option<String>,
        /// Only those of this type
        #[arg(long = "type", value_parser = PossibleValuesParser::new(["saga", "tcc", "xa", "msg", "workflow"]))]
        trans_type: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Go on where an earlier list ended
        #[arg(long, value_name = "POSITION")]
        position: Option<String>,
    },
    /// Show one transaction and its branches
    Show {
        /// Its id
        gid: String,
    },
    /// Look at a transaction now instead of waiting for its next try
    Retry {
        /// Its id
        gid: String,
    },
    /// Give up a transaction: no further call is made, nothing is compensated
    #[command(after_long_help = STOP_HELP)]
    Stop {
        /// Its id
        gid: String,
        /// Why; stored with the transaction
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
        /// Who; stored with the transaction [default: the user's name]
        #[arg(long)]
        actor: Option<String>,
    },
}

impl Tx {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.remote.client()?;
        let json = self.remote.json;
        match self.verb {
            Verb::List {
                status,
                trans_type,
                limit,
                position,
            } => {
                let limit = limit.to_string();
                let mut query = vec![("limit", limit.as_str())];
                query.extend(status.as_deref().map(|status| ("status", status)));
                query.extend(trans_type.as_deref().map(|kind| ("transType", kind)));
                query.extend(position.as_deref().map(|position| ("position", position)));
                list(&client, &query, json)
            }
            Verb::Show { gid } => show(&client, &gid, json),
            Verb::Retry { gid } => {
                let answer = client.get("query", &[("gid", &gid)])?;
                // The server answers success for one that has ended, too.
                if let Some(status @ ("succeed" | "failed")) =
                    found(&answer, &gid)?.get("status").and_then(Value::as_str)
                {
                    let message = format!("{gid} has ended ({status}): there is nothing to retry");
                    return Err(Failure::new(Exit::Refused, message));
                }
                let answer = client.post("resetNextCronTime", &json!({ "gid": gid }))?;
                output::done(&answer, json, &format!("{gid} is looked at now"));
                Ok(())
            }
            Verb::Stop { gid, reason, actor } => {
                let actor = actor.unwrap_or_else(user);
                let body = json!({ "gid": gid, "actor": actor, "reason": reason });
                let answer = client.post("forceStop", &body)?;
                output::done(
                    &answer,
                    json,
                    &format!("{gid} is stopped; nothing was compensated"),
                );
                Ok(())
            }
        }
    }
}

fn user() -> String {
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "amends tx stop".to_owned())
}

fn list(client: &Client, query: &[(&str, &str)], json: bool) -> Result<(), Failure> {
    let answer = client.get("all", query)?;
    if json {
        output::print_json(&answer);
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let rows = elements(&answer["transactions"]).map(|tx| {
        let text = |name: &str| output::cell(&tx[name]);
        let waits = !matches!(tx["status"].as_str(), Some("succeed" | "failed"));
        let next = if waits {
            output::distance(&tx["next_cron_time"], now)
        } else {
            String::new()
        };
        vec![
            text("gid"),
            text("trans_type"),
            text("status"),
            output::time(&tx["create_time"]),
            next,
            cut(&text("rollback_reason"), REASON),
        ]
    });
    let header = [
        "GID",
        "TYPE",
        "STATUS",
        "CREATED (UTC)",
        "NEXT TRY",
        "REASON",
    ];
    output::print(&output::table(&header, rows.collect()));
    if let Some(position) = answer["next_position"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        output::hint(&format!("there may be more: --position {position}"));
    }
    Ok(())
}

fn show(client: &Client, gid: &str, json: bool) -> Result<(), Failure> {
    let answer = client.get("query", &[("gid", gid)])?;
    let tx = found(&answer, gid)?;
    if json {
        output::print_json(&answer);
        return Ok(());
    }
    let mut rows = Vec::new();
    for name in in_order(
        tx.keys(),
        &["gid", "trans_type", "status", "rollback_reason"],
    ) {
        // The options are shown one by one already, the payloads are too long, and a store's row number tells nobody anything.
        if !matches!(name, "id" | "options" | "payloads" | "steps") {
            rows.push(vec![name.to_owned(), show_value(name, &tx[name])]);
        }
    }
    let mut text = output::table(&["FIELD", "VALUE"], rows);
    let branches: Vec<&Value> = elements(&answer["branches"]).collect();
    if !branches.is_empty() {
        text.push('\n');
        text.push_str(&branch_table(&branches));
    }
    output::print(&text);
    Ok(())
}

/// The transaction that a query was answered with.
fn found<'a>(answer: &'a Value, gid: &str) -> Result<&'a Map<String, Value>, Failure> {
    answer["transaction"].as_object().ok_or_else(|| {
        let message = format!("no transaction with gid {gid}");
        Failure::new(Exit::NotFound, message)
    })
}

fn branch_table(branches: &[&Value]) -> String {
    let mut names: Vec<&String> = Vec::new();
    for branch in branches.iter().filter_map(|branch| branch.as_object()) {
        names.extend(branch.keys());
    }
    names.sort();
    names.dedup();
    let first = ["branch_id", "op", "status", "finish_time", "url"];
    let hidden = [
        "id",
        "gid",
        "bin_data",
        "create_time",
        "update_time",
        "rollback_time",
    ];
    let names: Vec<&str> = in_order(names.into_iter(), &first)
        .into_iter()
        .filter(|name| !hidden.contains(name))
        .collect();
    let header: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = branches.iter().map(|branch| {
        names
            .iter()
            .map(|name| show_value(name, &branch[*name]))
            .collect()
    });
    output::table(&header, rows.collect())
}

/// Bytes of a reason in a list, where each transaction is a line.
const REASON: usize = 80;
/// Bytes of any value of one transaction; `--json` shows all of it.
const VALUE: usize = 400;

fn show_value(name: &str, value: &Value) -> String {
    if name.ends_with("_time") {
        output::time(value)
    } else {
        cut(&output::cell(value), VALUE)
    }
}

/// The names, those of `first` before all others.
fn in_order<'a>(names: impl Iterator<Item = &'a String>, first: &[&str]) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    let rank = |name: &str| first.iter().position(|f| *f == name).unwrap_or(first.len());
    names.sort_by_key(|name| rank(name));
    names
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
