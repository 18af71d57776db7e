//! The databases a barrier lives in, and how each writes tables and parameters.

use crate::error::Error;
use std::fmt::{self, Write};

/// A kind of database. SQL Server and Oracle have statements that nothing here could be tested against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// MySQL, MariaDB, TiDB.
    MySql,
    /// PostgreSQL, from version 10.
    Postgres,
    /// SQLite.
    Sqlite,
    /// Microsoft SQL Server; untested.
    SqlServer,
    /// Oracle; untested.
    Oracle,
}

impl Dialect {
    /// Every dialect, in the order of their names on the command line.
    pub const ALL: &'static [Dialect] = &[
        Dialect::MySql,
        Dialect::Postgres,
        Dialect::Sqlite,
        Dialect::SqlServer,
        Dialect::Oracle,
    ];

    /// Its name: `mysql`, `postgres`, `sqlite`, `sqlserver`, `oracle`.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::MySql => "mysql",
            Dialect::Postgres => "postgres",
            Dialect::Sqlite => "sqlite",
            Dialect::SqlServer => "sqlserver",
            Dialect::Oracle => "oracle",
        }
    }

    /// The dialect of a name; `mariadb` and `postgresql` are understood, too.
    pub fn parse(name: &str) -> Option<Dialect> {
        match name {
            "mariadb" => Some(Dialect::MySql),
            "postgresql" => Some(Dialect::Postgres),
            name => Dialect::ALL.iter().copied().find(|d| d.as_str() == name),
        }
    }

    /// Where the barrier's rows are unless the user says otherwise: the table that DTM's clients use, so that they share it.
    pub fn default_table(self) -> Table {
        Table(match self {
            // It has no schemas.
            Dialect::Sqlite => "barrier".to_owned(),
            _ => "dtm_barrier.barrier".to_owned(),
        })
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a driver writes the parameters of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamStyle {
    /// `?`
    Question,
    /// `$1`, `$2`, …
    Dollar,
    /// `%s`, as Python's drivers for MySQL and PostgreSQL take them.
    Percent,
    /// `:1`, `:2`, …
    Colon,
    /// `@p1`, `@p2`, …
    AtP,
}

impl ParamStyle {
    /// Writes the parameter with this number, from 1.
    pub(super) fn write(self, n: usize, out: &mut String) {
        out.push_str(match self {
            ParamStyle::Question => "?",
            ParamStyle::Percent => "%s",
            ParamStyle::Dollar => "$",
            ParamStyle::Colon => ":",
            ParamStyle::AtP => "@p",
        });
        if !matches!(self, ParamStyle::Question | ParamStyle::Percent) {
            // A string cannot refuse it.
            let _ = write!(out, "{n}");
        }
    }
}

/// The name of the barrier's table: one or two parts of letters, digits and `_`. It is written into statements as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table(String);

/// Longest part of a table's name: what MySQL and PostgreSQL allow.
const PART_MAX: usize = 63;

impl Table {
    /// Checks a name. Error: `Invalid`.
    pub fn new(name: &str) -> Result<Table, Error> {
        let part = |part: &str| {
            let first = part.bytes().next();
            first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && part.len() <= PART_MAX
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|p| part(p)) {
            return Err(Error::invalid(format!(
                "{name:?} is no name for the barrier's table: it is table or schema.table, of letters, digits and _, at most {PART_MAX} each"
            )));
        }
        Ok(Table(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the point, or all of it.
    pub fn name(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(_, name)| name)
    }

    /// The part before the point, if there is one.
    pub fn schema(&self) -> Option<&str> {
        self.0.split_once('.').map(|(schema, _)| schema)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_have_names() {
        for d in Dialect::ALL {
            assert_eq!(Dialect::parse(d.as_str()), Some(*d));
        }
        assert_eq!(Dialect::parse("mariadb"), Some(Dialect::MySql));
        assert_eq!(Dialect::parse("MySQL"), None);
    }

    #[test]
    fn a_table_is_a_plain_name() {
        assert_eq!(
            Table::new("my_db.barrier").expect("legal").schema(),
            Some("my_db")
        );
        assert_eq!(Table::new("barrier").expect("legal").schema(), None);
        let long = "t".repeat(PART_MAX);
        assert!(Table::new(&long).is_ok());
        for bad in [
            "",
            ".",
            "a.",
            "a.b.c",
            "a b",
            "a;drop table x",
            "a`b",
            "1a",
            "ä",
            &format!("{long}t"),
        ] {
            assert!(Table::new(bad).is_err(), "{bad}");
        }
        for d in Dialect::ALL {
            assert!(Table::new(d.default_table().as_str()).is_ok());
        }
    }
}
