//! Lines over time, as SVG that can be read on light and on dark pages.

use std::fmt::Write as _;
use std::path::Path;

use crate::world::{Minute, Settings};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
/// Title, unit and legend are above it.
const TOP: f64 = 84.0;
const BOTTOM: f64 = 36.0;
/// So many minutes are one point of what happens within minutes.
const SPAN: usize = 10;

/// The picture has a ground of its own, and so is read on any page; where the reader's system is dark,
/// it is dark as well. Lines differ in their dashes too, for whoever does not tell the colours apart.
const STYLE: &str = "<style>\n\
    text { fill: #24292f } .quiet { fill: #57606a } .title { font-weight: bold; font-size: 15px }\n\
    .ground { fill: #ffffff; stroke: #d0d7de } .grid { stroke: #e2e6ea }\n\
    .line { fill: none; stroke-width: 2; stroke-linejoin: round }\n\
    .run0 { stroke: #b3261e; stroke-dasharray: 3 3 } .run1 { stroke: #9a6700; stroke-dasharray: 10 4 }\n\
    .run2 { stroke: #0b5cad } .run3 { stroke: #7a3fa0; stroke-dasharray: 10 3 2 3 }\n\
    .run4 { stroke: #1a7f37; stroke-dasharray: 5 3 } .limit { stroke: #57606a; stroke-dasharray: 1 3 }\n\
    @media (prefers-color-scheme: dark) {\n\
    text { fill: #e6edf3 } .quiet { fill: #9da7b1 }\n\
    .ground { fill: #14191f; stroke: #3d444d } .grid { stroke: #2a3038 }\n\
    .run0 { stroke: #ff7b72 } .run1 { stroke: #e3b341 } .run2 { stroke: #79c0ff }\n\
    .run3 { stroke: #d2a8ff } .run4 { stroke: #56d364 } .limit { stroke: #9da7b1 }\n\
    }\n</style>\n";

/// A run of the simulation.
pub struct Run {
    pub name: &'static str,
    pub settings: Settings,
    pub history: Vec<Minute>,
}

/// What is drawn of a run.
enum Value {
    /// What happened within some minutes, drawn at the middle of them.
    During(fn(&[Minute]) -> f64),
    /// What was so at the end of each minute.
    After(fn(&Minute) -> f64),
}

/// One plot.
struct Picture {
    file: &'static str,
    title: &'static str,
    unit: &'static str,
    /// Which runs it has a line of.
    shows: fn(&Settings) -> bool,
    value: Value,
    /// What the values cannot well be above, of those runs in the mean, and how that is called.
    limit: Option<(&'static str, Value)>,
}

/// A line of a plot: points are minutes and values.
struct Line<'a> {
    class: String,
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// Writes the plots of all runs into a folder.
pub fn write(folder: &Path, runs: &[Run]) -> std::io::Result<()> {
    let usual: fn(&Settings) -> bool = |settings| settings.cheats > 0 && settings.panel > 3;
    let pictures = [
        Picture {
            file: "swarm-throughput.svg",
            title: "Right results",
            unit: "a minute, mean of ten minutes",
            shows: usual,
            value: Value::During(|part| {
                (sum(part, |m| m.accepted) - sum(part, |m| m.wrong)) / part.len() as f64
            }),
            limit: Some((
                "what honest nodes could do",
                Value::During(|part| {
                    part.iter().map(|m| m.possible).sum::<f64>() / part.len() as f64
                }),
            )),
        },
        Picture {
            file: "swarm-wrong.svg",
            title: "Wrong results accepted",
            unit: "% of all results accepted in the same ten minutes",
            shows: usual,
            value: Value::During(|part| {
                100.0 * sum(part, |m| m.wrong) / sum(part, |m| m.accepted).max(1.0)
            }),
            limit: None,
        },
        Picture {
            file: "swarm-cheats.svg",
            title: "Cheats not convicted yet",
            unit: "nodes",
            shows: usual,
            value: Value::After(|minute| minute.cheats_left as f64),
            limit: None,
        },
        Picture {
            file: "swarm-honest-convicted.svg",
            title: "Honest nodes convicted so far",
            unit: "nodes",
            shows: |settings| settings.cheats > 0,
            value: Value::After(|minute| minute.honest_convicted as f64),
            limit: None,
        },
        Picture {
            file: "swarm-honest-earned.svg",
            title: "What an honest node earned",
            unit: "micro-credits in ten minutes, less fines, mean of all honest nodes",
            shows: |settings| settings.panel > 3,
            value: Value::During(|part| part.iter().map(|m| m.honest_earned).sum()),
            limit: None,
        },
    ];
    for picture in &pictures {
        std::fs::write(folder.join(picture.file), draw(picture, runs))?;
    }
    Ok(())
}

fn sum(part: &[Minute], of: fn(&Minute) -> u64) -> f64 {
    part.iter().map(of).sum::<u64>() as f64
}

impl Value {
    fn points(&self, history: &[Minute]) -> Vec<(f64, f64)> {
        match self {
            Self::During(of) => {
                let parts = history.chunks(SPAN).enumerate();
                let middle =
                    |place: usize, part: &[Minute]| (place * SPAN) as f64 + part.len() as f64 / 2.0;
                parts
                    .map(|(place, part)| (middle(place, part), of(part)))
                    .collect()
            }
            Self::After(of) => {
                let minutes = history.iter().enumerate();
                minutes
                    .map(|(before, minute)| ((before + 1) as f64, of(minute)))
                    .collect()
            }
        }
    }
}

impl Picture {
    fn lines<'a>(&self, runs: &'a [Run]) -> Vec<Line<'a>> {
        let shown = runs.iter().enumerate();
        let shown = shown.filter(|(_, run)| (self.shows)(&run.settings));
        let mut lines: Vec<Line<'a>> = shown
            .clone()
            .map(|(place, run)| Line {
                class: format!("run{place}"),
                name: run.name,
                points: self.value.points(&run.history),
            })
            .collect();
        if let Some((name, value)) = &self.limit {
            let all: Vec<_> = shown.map(|(_, run)| value.points(&run.history)).collect();
            let points = all.first().into_iter().flatten().enumerate();
            let points = points.map(|(place, (minute, _))| {
                let values = all.iter().filter_map(|one| one.get(place));
                let sum: f64 = values.map(|(_, value)| value).sum();
                (*minute, sum / all.len() as f64)
            });
            lines.push(Line {
                class: "limit".to_owned(),
                name,
                points: points.collect(),
            });
        }
        lines
    }
}

fn draw(picture: &Picture, runs: &[Run]) -> String {
    let lines = picture.lines(runs);
    let minutes = runs.iter().map(|run| run.history.len()).max().unwrap_or(1);
    let values = lines.iter().flat_map(|line| &line.points);
    let most = values.fold(5.0, |most: f64, (_, value)| most.max(*value));
    let step = step(most);
    let steps = (most / step).ceil();
    let x = |minute: f64| LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes as f64;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / (steps * step);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}, {unit}</title>\n{STYLE}\
         <rect class=\"ground\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"20\" y=\"27\">{title}</text>\n\
         <text class=\"quiet\" x=\"20\" y=\"45\">{unit}</text>\n",
        WIDTH - 1.0,
        HEIGHT - 1.0,
        title = picture.title,
        unit = picture.unit,
    );
    for place in 0..=steps as u32 {
        let value = f64::from(place) * step;
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"quiet\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y(value) + 4.0,
            with_commas(value),
            y = y(value),
        );
    }
    for hour in 0..=minutes / 60 {
        let _ = writeln!(
            svg,
            "<text class=\"quiet\" x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{hour} h</text>",
            x(hour as f64 * 60.0),
            HEIGHT - BOTTOM + 20.0
        );
    }
    let mut legend = 20.0;
    for line in &lines {
        let points: Vec<String> = line
            .points
            .iter()
            .map(|(minute, value)| format!("{:.1},{:.1}", x(*minute), y(*value)))
            .collect();
        let (class, name) = (&line.class, line.name);
        let _ = writeln!(
            svg,
            "<polyline class=\"line {class}\" points=\"{}\"/>\n\
             <line class=\"line {class}\" x1=\"{legend:.0}\" x2=\"{:.0}\" y1=\"63\" y2=\"63\"/>\
             <text x=\"{:.0}\" y=\"67\">{name}</text>",
            points.join(" "),
            legend + 28.0,
            legend + 34.0,
        );
        // A letter is rarely wider than seven.
        legend += 34.0 + 7.0 * name.len() as f64 + 16.0;
    }
    svg + "</svg>\n"
}

/// How far lines of a grid are apart: a round number, of which six at most reach `most`.
fn step(most: f64) -> f64 {
    let least = most / 6.0;
    let power = 10_f64.powf(least.log10().floor());
    let mut round = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power);
    let step = round.find(|step| *step >= least);
    step.unwrap_or(10.0 * power)
}

fn with_commas(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
