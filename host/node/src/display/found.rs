//! Nodes that were found by what they can do, as a person sees them.
//!
//! What it must never do: let a terminal obey what a stranger calls its device. No announcement is taken
//! whose device is not in printable ASCII, and nothing else is shown here either.

use skep_evidence::Credits;

use super::{bytes, jobs};
use crate::moment::moment;
use crate::requests::found::{Found, FoundNode, ReadyLine};

const COLUMNS: usize = 8;
const HEADINGS: [&str; COLUMNS] = [
    "node",
    "device",
    "memory",
    "at once",
    "10^12 ops",
    "10^9 bytes",
    "hour",
    "good until",
];

/// Prints who was found, or why nobody was.
pub fn print(found: &Found) {
    for line in told(found) {
        tell!("{line}");
    }
}

fn told(found: &Found) -> Vec<String> {
    if found.nodes.is_empty() {
        let why = found.why.as_deref().unwrap_or_default();
        return vec![format!("no node was found: {why}")];
    }
    let rows: Vec<[String; COLUMNS]> = found.nodes.iter().map(row).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.fold(HEADINGS[column].len(), usize::max)
    });
    let mut lines = vec![line(HEADINGS, widths)];
    for (node, row) in found.nodes.iter().zip(&rows) {
        lines.push(line(row.each_ref().map(String::as_str), widths));
        if node.million_tokens_micro > 0 {
            let price = Credits::from_micro(node.million_tokens_micro);
            lines.push(format!("  tokens  {price} credits for 10^6"));
        }
        if !node.ready.is_empty() {
            let ready: Vec<&str> = node.ready.iter().map(called).collect();
            lines.push(format!("  ready   {}", ready.join(", ")));
        }
        lines.push(format!("  ticket  {}", node.ticket));
    }
    lines.push(
        "Prices are in credits, for 10^12 operations, for 10^9 bytes in and out, and for an hour of keeping \
         something ready. Nobody has checked what nodes say of themselves; `skep job submit --provider <ticket>` \
         asks one."
            .to_owned(),
    );
    lines
}

fn row(node: &FoundNode) -> [String; COLUMNS] {
    let credits = |micro| Credits::from_micro(micro).to_string();
    [
        jobs::short(&node.node).to_owned(),
        node.device
            .replace(|letter: char| !letter.is_ascii_graphic(), "?"),
        bytes(node.memory_bytes),
        node.at_once.to_string(),
        credits(node.teraflop_micro),
        credits(node.gigabyte_micro),
        credits(node.hour_micro),
        moment(node.expires_ms),
    ]
}

fn line(cells: [&str; COLUMNS], widths: [usize; COLUMNS]) -> String {
    let cells = cells.iter().zip(widths);
    let cells = cells.map(|(cell, width)| format!("{cell:<width$}"));
    let cells: Vec<String> = cells.collect();
    cells.join("  ").trim_end().to_owned()
}

/// A package's name and version without its publisher, or as much of a digest as tells it from others.
fn called(ready: &ReadyLine) -> &str {
    match &ready.package {
        Some(package) => package.rsplit('/').next().unwrap_or(package),
        None => jobs::short(&ready.digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(device: &str, ready: Vec<ReadyLine>) -> FoundNode {
        FoundNode {
            node: "0123456789abcdef".repeat(4),
            ticket: "skep1ticket".to_owned(),
            addresses: vec!["127.0.0.1:4711".to_owned()],
            device: device.to_owned(),
            memory_bytes: 8 << 30,
            at_once: 2,
            million_tokens_micro: 0,
            teraflop_micro: 1_000,
            gigabyte_micro: 10_000,
            hour_micro: 2_000_000,
            ready,
            issued_ms: 0,
            expires_ms: 1_000_000_000_000,
        }
    }

    fn shown(nodes: Vec<FoundNode>) -> Vec<String> {
        told(&Found {
            nodes,
            heard_of: 9,
            taking: 8,
            fitting: Vec::new(),
            why: None,
        })
    }

    #[test]
    fn each_node_has_a_row_under_the_headings_and_its_ticket() {
        let ready = |package: Option<&str>| ReadyLine {
            package: package.map(str::to_owned),
            digest: "fedcba9876543210".repeat(4),
        };
        let first = node(
            "cuda:0",
            vec![ready(Some("publisher/writer@1.2.0")), ready(None)],
        );
        let dear = FoundNode {
            million_tokens_micro: 500_000,
            teraflop_micro: u64::MAX,
            memory_bytes: u64::MAX,
            expires_ms: u64::MAX,
            ..node("processor", Vec::new())
        };
        let lines = shown(vec![first, dear]);
        let headings = [
            "node        device     memory",
            "at once  10^12 ops",
            "10^9 bytes  hour  good until",
        ];
        for part in headings {
            assert!(lines[0].contains(part), "{}", lines[0]);
        }
        assert!(
            lines[1].starts_with("0123456789  cuda:0     8.00 GiB"),
            "{}",
            lines[1]
        );
        assert!(
            lines[1].ends_with("0.01        2     2001-09-09 01:46 UTC"),
            "{}",
            lines[1]
        );
        let rest = [
            "  ready   writer@1.2.0, fedcba9876",
            "  ticket  skep1ticket",
        ];
        assert_eq!(lines[2..4], rest);
        assert!(
            lines[4].starts_with("0123456789  processor  "),
            "{}",
            lines[4]
        );
        assert_eq!(lines[5], "  tokens  0.5 credits for 10^6");
        assert_eq!(lines[6], "  ticket  skep1ticket");
        assert_eq!(lines.len(), 8);
        // What stands under a heading begins where that does, however long another row has it.
        let place = |line: &str, part: &str| line.find(part);
        assert_eq!(place(&lines[0], "device"), place(&lines[4], "processor"));
        assert_eq!(place(&lines[0], "good until"), place(&lines[1], "2001"));
    }

    #[test]
    fn a_device_is_nothing_that_a_terminal_obeys() {
        let lines = shown(vec![node("c\u{1b}[2J\u{7}\r\n\u{202e}u\u{9b}", Vec::new())]);
        assert!(lines[1].contains("  c?[2J????u?  "), "{}", lines[1]);
        assert!(lines.iter().all(|line| line.is_ascii()));
    }

    #[test]
    fn an_empty_result_is_told_with_its_reason() {
        let nobody = Found {
            nodes: Vec::new(),
            heard_of: 0,
            taking: 0,
            fitting: Vec::new(),
            why: Some("this node knows no other".to_owned()),
        };
        assert_eq!(
            told(&nobody),
            ["no node was found: this node knows no other"]
        );
    }
}
