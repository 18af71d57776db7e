//! What a measurement says to people and to programs: tables and criteria.

use serde_json::{Value, json};
use std::fmt::Write;

/// A number that must be on one side of another.
#[derive(Clone, Debug)]
pub(crate) struct Criterion {
    /// What is compared, with its unit.
    pub(crate) name: String,
    /// What was measured.
    pub(crate) measured: f64,
    /// What it is held against.
    pub(crate) bound: f64,
    /// Whether the measured value must be at least the bound; else at most.
    pub(crate) at_least: bool,
}

impl Criterion {
    /// `measured` must be at least `bound`.
    pub(crate) fn at_least(name: impl Into<String>, measured: f64, bound: f64) -> Criterion {
        Criterion {
            name: name.into(),
            measured,
            bound,
            at_least: true,
        }
    }

    /// `measured` must be at most `bound`.
    pub(crate) fn at_most(name: impl Into<String>, measured: f64, bound: f64) -> Criterion {
        Criterion {
            at_least: false,
            ..Criterion::at_least(name, measured, bound)
        }
    }

    /// Whether it holds; a value that is not a number never does.
    pub(crate) fn holds(&self) -> bool {
        if self.at_least {
            self.measured >= self.bound
        } else {
            self.measured <= self.bound
        }
    }
}

/// A titled table, then criteria.
#[derive(Debug, Default)]
pub(crate) struct Report {
    notes: Vec<String>,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
    criteria: Vec<Criterion>,
    data: serde_json::Map<String, Value>,
}

impl Report {
    /// An empty report whose table has these columns beside the row's name.
    pub(crate) fn new(columns: &[&str]) -> Report {
        Report {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            ..Report::default()
        }
    }

    /// A line before the table.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A row of the table.
    pub(crate) fn row(&mut self, name: impl Into<String>, cells: &[String]) {
        self.rows.push((name.into(), cells.to_vec()));
    }

    /// A criterion.
    pub(crate) fn criterion(&mut self, criterion: Criterion) {
        self.criteria.push(criterion);
    }

    /// A value for programs.
    pub(crate) fn value(&mut self, key: &str, value: impl Into<Value>) {
        self.data.insert(key.to_owned(), value.into());
    }

    /// Whether every criterion holds.
    pub(crate) fn all_hold(&self) -> bool {
        self.criteria.iter().all(Criterion::holds)
    }

    /// One JSON object.
    pub(crate) fn to_json(&self) -> String {
        let mut data = self.data.clone();
        let criteria = self.criteria.iter().map(|c| {
            let side = if c.at_least { "at_least" } else { "at_most" };
            json!({ "name": c.name, "measured": c.measured, side: c.bound, "ok": c.holds() })
        });
        data.insert("notes".to_owned(), json!(self.notes));
        data.insert("criteria".to_owned(), criteria.collect());
        Value::Object(data).to_string()
    }

    /// Text for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        if !self.rows.is_empty() {
            let mut table = vec![(String::new(), self.columns.clone())];
            table.extend(self.rows.iter().cloned());
            text.push('\n');
            text.push_str(&aligned(&table));
        }
        if !self.criteria.is_empty() {
            let header = ["measured", "", "bound", ""].map(str::to_owned).to_vec();
            let mut table = vec![(String::new(), header)];
            for c in &self.criteria {
                let side = if c.at_least { "≥" } else { "≤" };
                let verdict = if c.holds() { "ok" } else { "NOT met" };
                let cells = [
                    number(c.measured),
                    side.into(),
                    number(c.bound),
                    verdict.into(),
                ];
                table.push((c.name.clone(), cells.to_vec()));
            }
            text.push('\n');
            text.push_str(&aligned(&table));
        }
        text
    }
}

/// The first column to the left, all others to the right.
fn aligned(table: &[(String, Vec<String>)]) -> String {
    let width = |text: &str| text.chars().count();
    let first = table.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let columns = table
        .iter()
        .map(|(_, cells)| cells.len())
        .max()
        .unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| {
            let cells = table.iter().filter_map(|(_, cells)| cells.get(i));
            cells.map(|cell| width(cell)).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (name, cells) in table {
        let mut line = format!("{name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A number as people read it: thousands apart, and decimals where they matter.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 3,
    };
    let plain = format!("{value:.decimals$}");
    let (sign, digits) = plain
        .strip_prefix('-')
        .map_or(("", &plain[..]), |d| ("-", d));
    let (whole, fraction) = digits
        .find('.')
        .map_or((digits, ""), |dot| digits.split_at(dot));
    let mut grouped = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(13_123.4), "13,123");
        assert_eq!(number(999.7), "1,000");
        assert_eq!(number(-1_234_567.0), "-1,234,567");
        assert_eq!(number(0.21), "0.210");
        assert_eq!(number(0.0), "0");
        assert_eq!(number(70.25), "70.2");
        assert_eq!(number(f64::NAN), "–");
    }

    #[test]
    fn a_criterion_holds_at_its_bound_and_not_without_a_number() {
        assert!(Criterion::at_least("a", 0.55, 0.55).holds());
        assert!(!Criterion::at_least("a", 0.549, 0.55).holds());
        assert!(Criterion::at_most("a", 2.0, 2.0).holds());
        assert!(!Criterion::at_most("a", f64::NAN, 2.0).holds());
        assert!(!Criterion::at_least("a", f64::NAN, 2.0).holds());
    }

    #[test]
    fn a_report_shows_table_and_verdicts() {
        let mut report = Report::new(&["null", "amends"]);
        report.note("a note");
        report.row("sagas/s", &[number(13_000.0), number(7_000.0)]);
        report.criterion(Criterion::at_least("ratio", 0.538, 0.55));
        report.criterion(Criterion::at_most("CPU", 1.5, 2.0));
        report.value("rounds", 5);
        let text = report.to_text();
        assert!(text.starts_with("a note\n\n"), "{text}");
        assert!(text.contains("sagas/s  13,000   7,000\n"), "{text}");
        assert!(text.contains("0.538  ≥  0.550  NOT met\n"), "{text}");
        assert!(text.contains("1.500  ≤      2       ok\n"), "{text}");
        assert!(!report.all_hold());
        let value: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["rounds"], 5);
        assert_eq!(value["criteria"][0]["ok"], false);
        assert_eq!(value["criteria"][1]["at_most"], 2.0);
    }
}
