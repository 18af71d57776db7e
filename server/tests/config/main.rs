//! Configuration: precedence, DTM's files and variables, and every message that a wrong value gets (rules.md 6).

mod dtm;
mod own;

use amends_server::config::{Environment, Flag, KEYS, Loaded, Sources, load};
use std::path::PathBuf;

struct Case {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn case() -> Case {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Case {
        folder,
        sources: Sources::default(),
    }
}

fn toml(text: &str) -> Case {
    case().file("amends.toml", text)
}

fn yaml(text: &str) -> Case {
    case().file("conf.yml", text)
}

impl Case {
    fn file(mut self, name: &str, text: &str) -> Case {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        self.sources.file = Some(path);
        self
    }

    fn env<const N: usize>(mut self, variables: [(&str, &str); N]) -> Case {
        self.sources.environment = Environment::of(variables);
        self
    }

    fn flag(mut self, key: &'static str, flag: &'static str, value: &str) -> Case {
        self.sources.flags.push(Flag {
            key,
            flag,
            value: value.to_owned(),
        });
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn loaded(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error's text, with the folder's name left out.
    fn refused(&self) -> String {
        match load(&self.sources) {
            Ok(_) => panic!("was accepted"),
            Err(error) => self.without_folder(&error.to_string()),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.loaded()
            .notes
            .iter()
            .map(|note| self.without_folder(note))
            .collect()
    }

    fn without_folder(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn origin(loaded: &Loaded, name: &str) -> String {
    let key = KEYS
        .iter()
        .find(|key| key.name == name)
        .expect("a known key");
    loaded.origin(key).to_string()
}
