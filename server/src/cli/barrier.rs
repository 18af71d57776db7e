//! `amends barrier`: the table that participants keep beside their own data.

use super::{EXIT_CODES, Exit, Failure, output};
use amends::participant::{Dialect, Table, ddl};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

const HELP: &str = "\
Examples:
  amends barrier ddl --dialect mysql | mysql -u root
  amends barrier ddl --dialect postgres | psql shop
  amends barrier ddl --dialect sqlite | sqlite3 shop.db
  amends barrier ddl --dialect mysql --table shop.barrier

The table is the one that DTM's clients use, so they share it with Amends' own. It belongs into the
database whose changes it guards: its rows are written in the same transactions. The statements for
sqlserver and oracle are untested.";

/// Print what creates the barrier's table
#[derive(Args)]
pub(super) struct Barrier {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the statements that create the table where it is missing
    Ddl(Ddl),
}

#[derive(Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"))]
struct Ddl {
    /// The kind of database
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(
        Dialect::ALL.iter().map(|d| d.as_str()).chain(["mariadb", "postgresql"])
    ))]
    dialect: String,
    /// Another name for the table, perhaps with a schema before it
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Print a JSON list of statements
    #[arg(long)]
    json: bool,
}

impl Barrier {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Ddl(ddl) = self.command;
        ddl.run()
    }
}

impl Ddl {
    fn run(self) -> Result<(), Failure> {
        let usage = |message: String| Failure::new(Exit::Usage, message);
        let dialect = Dialect::parse(&self.dialect)
            .ok_or_else(|| usage(format!("there is no dialect {:?}", self.dialect)))?;
        let table = match &self.table {
            Some(name) => Table::new(name).map_err(|error| usage(error.to_string()))?,
            None => dialect.default_table(),
        };
        let statements = ddl::create(dialect, &table);
        if self.json {
            output::print_json(&statements.into());
            return Ok(());
        }
        for statement in statements {
            output::print(&format!("{statement};\n"));
        }
        Ok(())
    }
}
