//! `amends completions`: scripts for shells.

use super::{Failure, output};
use clap::Command;
use clap_complete::Shell;

const HELP: &str = "\
Examples:
  source <(amends completions bash)
  amends completions zsh > ~/.zfunc/_amends
  amends completions fish > ~/.config/fish/completions/amends.fish";

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "amends", &mut script);
        output::print(&String::from_utf8_lossy(&script));
        Ok(())
    }
}
