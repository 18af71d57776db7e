//! `amends check`: verifies a data folder that no server holds.

use super::settings::Settings;
use super::{EXIT_CODES, Exit, Failure, output};
use crate::config::Environment;
use crate::store::embedded::{Report, check};
use serde_json::{Value, json};
use std::path::Path;

const HELP: &str = "\
Reads every value and verifies every rule between them. Nothing in the folder is changed; a server
that has it open must be stopped first.

Examples:
  amends check
  amends check --data /var/lib/amends
  amends check -c amends.toml --json";

/// Verify a data folder that no server holds
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"))]
pub(super) struct Check {
    /// Configuration file that names the data folder
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// The data folder [default: as configured, else ./amends-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = Settings::of_folder(self.file, self.data);
        let path = settings.load(Environment::of_process())?.config.data;
        if !path.is_dir() {
            let message = format!("there is no folder {}", path.display());
            return Err(Failure::new(Exit::NotFound, message));
        }
        let report = check(&path).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if self.json {
            output::print_json(&as_json(&path, &report));
        } else {
            output::print(&as_text(&report));
        }
        if report.is_clean() {
            return Ok(());
        }
        let problems = report.problems.len() as u64 + report.more_problems;
        let noun = if problems == 1 { "problem" } else { "problems" };
        let message = format!("{}: {problems} {noun} found", path.display());
        Err(Failure::new(Exit::Failed, message))
    }
}

fn as_text(report: &Report) -> String {
    let rows = report.records.iter().map(|((trans_type, status), count)| {
        vec![
            trans_type.to_string(),
            status.to_string(),
            count.to_string(),
        ]
    });
    let mut text = output::table(&["TYPE", "STATUS", "RECORDS"], rows.collect());
    let Report {
        parts,
        rows,
        values,
        buckets,
        ..
    } = report;
    text.push_str(&format!(
        "parts: {parts}, registered branch rows: {rows}, topics: {values}, buckets: {buckets}\n"
    ));
    if report.torn_tail {
        text.push_str("the log ends in a torn write that was never acknowledged; the next start cuts it off\n");
    }
    for problem in &report.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    if report.is_clean() {
        text.push_str("clean\n");
    }
    text
}

fn as_json(path: &Path, report: &Report) -> Value {
    let records = report.records.iter().map(|((trans_type, status), count)| {
        json!({
            "trans_type": trans_type.as_str(),
            "status": status.as_str(),
            "count": count,
        })
    });
    json!({
        "data": path.display().to_string(),
        "clean": report.is_clean(),
        "records": records.collect::<Vec<_>>(),
        "parts": report.parts,
        "rows": report.rows,
        "topics": report.values,
        "buckets": report.buckets,
        "torn_tail": report.torn_tail,
        "problems": report.problems,
        "more_problems": report.more_problems,
    })
}
