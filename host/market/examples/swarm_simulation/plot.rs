//! Lines over time, as SVG.

use std::fmt::Write as _;
use std::path::Path;

use crate::world::Minute;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 34.0;
const COLOURS: [&str; 3] = ["#b03a2e", "#d68910", "#1f618d"];

type History = (u32, Vec<Minute>);
/// What is shown of some minutes.
type Value = fn(&[Minute]) -> f64;

/// Writes the plots of all runs into a folder.
pub fn write(folder: &Path, histories: &[History]) -> std::io::Result<()> {
    let plots: [(&str, &str, Value); 3] = [
        (
            "swarm-throughput.svg",
            "right results in a minute",
            |part| (sum(part, |m| m.accepted) - sum(part, |m| m.wrong)) / part.len() as f64,
        ),
        ("swarm-wrong.svg", "wrong results in 1,000", |part| {
            1_000.0 * sum(part, |m| m.wrong) / sum(part, |m| m.accepted).max(1.0)
        }),
        ("swarm-cheats.svg", "cheats not convicted yet", |part| {
            sum(part, |m| m.cheats_left) / part.len() as f64
        }),
    ];
    for (file, title, value) in plots {
        std::fs::write(folder.join(file), plot(title, histories, value))?;
    }
    Ok(())
}

fn sum(part: &[Minute], of: fn(&Minute) -> u64) -> f64 {
    part.iter().map(of).sum::<u64>() as f64
}

fn plot(title: &str, histories: &[History], value: Value) -> String {
    let lines: Vec<Vec<f64>> = histories
        .iter()
        .map(|(_, history)| {
            // Ten minutes in one point.
            history.chunks(10).map(value).collect()
        })
        .collect();
    let most = lines
        .iter()
        .flatten()
        .fold(1.0, |most: f64, v| most.max(*v));
    let points = lines.iter().map(Vec::len).max().unwrap_or(1).max(2);
    let x = |point: usize| LEFT + (WIDTH - LEFT - 20.0) * point as f64 / (points - 1) as f64;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-weight=\"bold\">{title}</text>\n"
    );
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            WIDTH - 20.0,
            LEFT - 8.0,
            y(value) + 4.0,
            y = y(value),
        );
    }
    for hour in 0..=(points / 6) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{hour} h</text>",
            x((hour * 6).min(points - 1)),
            HEIGHT - BOTTOM + 18.0
        );
    }
    for (place, ((audits, _), line)) in histories.iter().zip(&lines).enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let path: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(point, value)| format!("{:.1},{:.1}", x(point), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>\
             <text x=\"{:.0}\" y=\"18\" fill=\"{colour}\">{} % audits</text>",
            path.join(" "),
            WIDTH - 300.0 + 100.0 * place as f64,
            f64::from(*audits) / 10_000.0
        );
    }
    svg + "</svg>\n"
}
