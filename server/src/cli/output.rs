//! What commands print: results on stdout, everything else on stderr.

use serde_json::Value;
use std::io::Write;

/// Prints a result. A reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Prints a result as JSON.
pub(super) fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

/// One line about something to know that is no error.
pub(super) fn warn(note: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {note}");
}

/// The one line that says why a command failed.
pub(super) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "amends: {message}");
}

/// What was done: the server's answer as JSON, or a sentence.
pub(super) fn done(answer: &Value, json: bool, text: &str) {
    if json {
        print_json(answer);
    } else {
        print(&format!("{}\n", printable(text)));
    }
}

/// One line on stderr that helps to go on.
pub(super) fn hint(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Aligned columns under a header. Empty columns are left out.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![
        header
            .iter()
            .map(|cell| (*cell).to_owned())
            .collect::<Vec<_>>(),
    ];
    let rows = rows
        .into_iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect());
    lines.extend(rows);
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = || lines.iter().filter_map(move |line| line.get(column));
            let filled = lines.len() == 1 || cells().skip(1).any(|cell| !cell.is_empty());
            if filled {
                cells().map(|cell| cell.chars().count()).max().unwrap_or(0)
            } else {
                0
            }
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A JSON value as a cell: texts without quotes.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An RFC 3339 time as people read it, in UTC; anything else as it is.
pub(super) fn time(value: &Value) -> String {
    let text = cell(value);
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => text,
    }
}

/// How far away an RFC 3339 time is: `in 9 s`, `now`, `3 min ago`.
pub(super) fn distance(value: &Value, now: jiff::Timestamp) -> String {
    let text = cell(value);
    let Ok(at) = text.parse::<jiff::Timestamp>() else {
        return text;
    };
    let seconds = at.as_second() - now.as_second();
    let size = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        n @ ..120 => format!("{n} s"),
        n @ ..7_200 => format!("{} min", n / 60),
        n @ ..172_800 => format!("{} h", n / 3_600),
        n => format!("{} d", n / 86_400),
    };
    if seconds > 0 {
        format!("in {size}")
    } else {
        format!("{size} ago")
    }
}

/// Text from elsewhere must not move the cursor or colour the terminal.
fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(
            &["A", "B", "C"],
            vec![row(["1", "", "x"]), row(["ütf-8", "", "y"])],
        );
        assert_eq!(text, "A      C\n1      x\nütf-8  y\n");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(table(&["A", "B"], Vec::new()), "A  B\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        let text = table(&["A"], vec![vec!["\u{1b}[31mred\n".to_owned()]]);
        assert_eq!(text, "A\n\\u{1b}[31mred\\n\n");
    }

    #[test]
    fn times_are_readable() {
        let at = Value::from("2026-11-22T17:37:39.461648472Z");
        assert_eq!(time(&at), "2026-11-22 17:37:39");
        assert_eq!(time(&Value::Null), "");
        let now = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
        assert_eq!(distance(&at, now("2026-11-22T17:37:30Z")), "in 9 s");
        assert_eq!(distance(&at, now("2026-11-22T17:37:39.9Z")), "now");
        assert_eq!(distance(&at, now("2026-11-22T17:47:39Z")), "10 min ago");
    }
}
