//! How things are told: tables and times.
//!
//! Owns their form. Touches a writer. Invariant: what comes in is shown already; nothing here lets an escape through
//! that was not in it.

use std::io::Write;

use jiff::Timestamp;

/// A table with as much room for each column as it needs; the last is not padded.
pub(crate) fn table(
    heads: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let heads: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', 3 + width - cell.chars().count()));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The time of a record.
pub(crate) fn clock(time: &str) -> Option<Timestamp> {
    time.parse().ok()
}
