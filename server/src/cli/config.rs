//! `amends config`: the effective configuration and where each value came from.

use super::settings::Settings;
use super::{EXIT_CODES, Failure, output};
use crate::config::{Config, Environment, KEYS, Loaded};
use serde_json::{Map, Value, json};

const HELP: &str = "\
Examples:
  amends config                       the defaults, changed by the environment
  amends config -c conf.yml           what a file makes of them
  AMENDS_HTTP_PORT=8080 amends config --json

Values come from: defaults < file < environment < flags. Secrets are hidden.";

/// Show every setting, its value and where it came from
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"))]
pub(super) struct ShowConfig {
    #[command(flatten)]
    settings: Settings,
    /// Print JSON: {"<key>": {"value": …, "from": "default"}}
    #[arg(long, conflicts_with = "docs")]
    json: bool,
    /// Print a Markdown table of all settings with their defaults and meaning
    #[arg(long)]
    docs: bool,
}

impl ShowConfig {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.docs {
            output::print(&markdown());
            return Ok(());
        }
        let loaded = self.settings.load(Environment::of_process())?;
        for note in &loaded.notes {
            output::warn(note);
        }
        if self.json {
            output::print_json(&as_json(&loaded));
        } else {
            let rows = KEYS.iter().map(|key| {
                let value = key.kind.show(&key.get(&loaded.config));
                vec![key.name.to_owned(), value, loaded.origin(key).to_string()]
            });
            output::print(&output::table(&["KEY", "VALUE", "FROM"], rows.collect()));
        }
        Ok(())
    }
}

fn as_json(loaded: &Loaded) -> Value {
    let members = KEYS.iter().map(|key| {
        let value = key.get(&loaded.config);
        let shown = key.kind.show(&value);
        // Numbers and switches stay what they are; texts and hidden secrets are texts.
        let value = serde_json::from_str(&shown).unwrap_or(Value::String(shown));
        let from = loaded.origin(key).to_string();
        (key.name.to_owned(), json!({ "value": value, "from": from }))
    });
    Value::Object(Map::from_iter(members))
}

fn markdown() -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "| key | environment | default | allowed | meaning |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let value = key.kind.show(&key.get(&defaults));
        let (name, env, allowed, doc) = (key.name, key.env(), key.kind.allowed(), key.doc);
        text.push_str(&format!(
            "| `{name}` | `{env}` | `{value}` | {allowed} | {doc} |\n"
        ));
    }
    text
}
