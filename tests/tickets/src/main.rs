//! Writes support tickets to files. See `skep-tickets --help`.

use skep_tickets::{Format, labels, tickets, write_labels, write_tickets};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Writes made-up support tickets, or the labels to classify them by.

usage: skep-tickets tickets [--count N] [--seed N] [--csv] [--with-label] [--malformed-every N] [--out FILE]
       skep-tickets labels [--examples N] [--seed N] [--out FILE]

Without --out it writes to standard output. Tickets are JSON lines unless --csv is given; --count
is 3000, --examples is 8 and --seed is 1 unless given.
";

struct Options {
    count: usize,
    examples: usize,
    seed: u64,
    format: Format,
    with_label: bool,
    malformed: Option<usize>,
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    if matches!(what.as_str(), "help" | "--help" | "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(arguments).and_then(|options| run(&what, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-tickets: {error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        count: 3000,
        examples: 8,
        seed: 1,
        format: Format::Jsonl,
        with_label: false,
        malformed: None,
        out: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| {
            text.parse::<usize>()
                .map_err(|error| format!("{argument} {text}: {error}"))
        };
        match argument.as_str() {
            "--count" => options.count = number(value()?)?,
            "--examples" => options.examples = number(value()?)?,
            "--seed" => options.seed = number(value()?)? as u64,
            "--csv" => options.format = Format::Csv,
            "--with-label" => options.with_label = true,
            "--malformed-every" => options.malformed = Some(number(value()?)?),
            "--out" => options.out = Some(value()?.into()),
            _ => return Err(format!("unknown option {argument}")),
        }
    }
    Ok(options)
}

fn run(what: &str, options: &Options) -> Result<(), String> {
    let mut to: Box<dyn Write> = match &options.out {
        Some(path) => {
            let file = File::create(path)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(io::stdout())),
    };
    let written = match what {
        "tickets" => {
            let tickets = tickets(options.seed, options.count);
            write_tickets(
                &mut to,
                &tickets,
                options.format,
                options.with_label,
                options.malformed,
            )
            .map(drop)
        }
        "labels" => write_labels(&mut to, &labels(options.seed, options.examples)),
        _ => return Err(format!("say `tickets` or `labels`, not '{what}'")),
    };
    written
        .and_then(|()| to.flush())
        .map_err(|error| error.to_string())
}
