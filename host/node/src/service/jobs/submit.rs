//! Beginning a job: finds the package, asks who would take it, cuts the input, and puts all of it on
//! disk before anything else happens. `package` finds the package.

mod package;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use skep_evidence::{AccountId, Credits, Split};
use skep_market::{Quotation, Refusal, limits_for, split, typical};
use skep_records::{CsvExtents, Format, Labels};
use skep_registry::Digest;
use skep_swarm::Installed;

use self::package::package_of;
use super::answer::elsewhere;
use super::around::{Asked, Quotes, Wanted};
use super::drive::{SMALLEST_PANEL, too_dear};
use super::folder::{self, Adapter, Folder, Piece, Spec};
use super::suitable::suitable;
use super::talk::TalkError;
use super::{adapters, around, attest, failed, money, now, random, work};
use crate::failure::{Failure, FailureKind};
use crate::requests::jobs::Submission;
use crate::requests::{Progress, Unit};
use crate::service::{ProgressSender, Service, inspect, locate, run};

/// The most bytes that a shard is made of, unless one line alone has more.
const SHARD: u64 = 8 << 20;
/// Shards for each that the providers take at once, so that the quick ones get more than the slow.
const EACH: u32 = 2;
/// What an input has beside its records, labels and arguments, at most.
const AROUND: usize = 256;

/// Puts a new job on disk, and says who would take its shards. `begun_by` is the package whose run
/// begins it, if none of the owner's commands does.
pub async fn submit(
    service: &Arc<Service>,
    submission: &Submission,
    begun_by: Option<String>,
    progress: &ProgressSender,
) -> Result<(Folder, Quotes), Failure> {
    let usage = |reason: String| Failure::new(FailureKind::Usage, reason);
    let installed = package_of(
        service,
        &submission.package,
        submission.project.as_deref(),
        progress,
    )
    .await?;
    if let Some(output) = &submission.output {
        folder::can_be_written(output).map_err(elsewhere)?;
    }
    let release = &installed.release;
    let component = release.component().ok_or_else(|| {
        usage(format!(
            "{} is not a component, and cannot be run",
            submission.package
        ))
    })?;
    let labels = labels(component.world.as_str(), submission)?;
    work::is_for_jobs(&component.grants)?;
    let model = work::models(&component.grants)?;
    let adapter = match &submission.adapter {
        None => None,
        Some(_) if model.is_none() => {
            return Err(usage(format!(
                "{} uses no model, so that an adapter would change nothing; leave --adapter out",
                submission.package
            )));
        }
        Some(adapter) => {
            Some(adapters::chosen(service, adapter, &component.imports, progress).await?)
        }
    };
    let compares = submission.audit > 0 || submission.replicas > 1;
    let repeats = match compares {
        true => repeats(service, &installed).await?,
        false => Repeats::No,
    };
    if submission.audit > 0 && repeats == Repeats::No {
        return Err(usage(NOT_REPEATABLE.to_owned()));
    }
    let wanted_work = Wanted {
        package: release.digest(),
        adapter: adapter.as_ref().map(|adapter| adapter.release),
        residency: submission.warm,
    };
    let used: Vec<Digest> = [Some(wanted_work.package), wanted_work.adapter]
        .into_iter()
        .flatten()
        .collect();
    let _held = locate::hold(service.swarm().await?, &used).await;
    let account = money::account(service)?.id();
    let family = adapter.as_ref().map(|adapter| adapter.split.clone());
    let sought = Sought {
        repeats,
        wanted: wanted_work,
        account,
        family: family.unwrap_or_default(),
    };
    let budget = Credits::from_micro(submission.max_price);
    money::can_spend(service, account, budget)?;

    let around = labels.as_ref().map_or(0, Vec::len)
        + submission.arguments.iter().map(String::len).sum::<usize>()
        + AROUND;
    let wanted = match submission.shards {
        Some(shards) => shards,
        None => {
            let least = Largest {
                bytes: around as u64,
                alone: None,
            };
            let (quotations, _) = willing(service, submission, &sought, least, progress).await?;
            let slots = quotations.iter().map(Quotation::room);
            slots.sum::<u32>() * EACH
        }
    };
    let is_csv = labels.is_some() && is_csv(submission);
    let (header, shards) = match is_csv {
        true => csv_pieces(&submission.input, wanted)?,
        false => (None, pieces(&submission.input, wanted)?),
    };
    let longest = shards.iter().max_by_key(|piece| piece.bytes);
    let header_bytes = header.map_or(0, |header| header.bytes);
    let largest = Largest {
        bytes: longest
            .map_or(0, |piece| piece.bytes)
            .saturating_add(header_bytes)
            .saturating_add(around as u64),
        alone: longest
            .filter(|piece| piece.lines == 1)
            .map(|piece| piece.first_line),
    };
    let (quotations, quotes) = willing(service, submission, &sought, largest, progress).await?;
    let mut seed = release.digest().as_bytes().to_vec();
    seed.extend(random()?);
    let began = now();
    // Where enough are alike, nothing is more certain than the same bytes.
    let is_followed = submission.audit > 0 && most_alike(&quotations, false) < SMALLEST_PANEL;
    // Where enough have something to lose, who is odd is looked at whether or not all were asked for a stake.
    let looks_at_odd = submission.replicas > 1
        && repeats != Repeats::No
        && !is_followed
        && (submission.min_stake > 0
            || money::staked(service, money::SOMETHING, &quotations)? >= SMALLEST_PANEL);
    let spec = Spec {
        job: Digest::of(&seed),
        package: inspect::reference_of(release),
        release: release.digest(),
        model,
        adapter: adapter.map(|adapter| Adapter {
            release: adapter.release,
            reference: adapter.reference,
            shares: adapters::written(&adapter.split),
        }),
        warm: submission.warm,
        shards,
        header,
        largest: largest.bytes,
        arguments: submission.arguments.clone(),
        replicas: submission.replicas,
        exact: repeats != Repeats::No,
        attested: submission.attested,
        audit: submission.audit,
        followed: is_followed,
        looks_at_odd,
        min_stake: submission.min_stake,
        budget: budget.micro(),
        deadline: began.saturating_add(submission.deadline),
        began,
        providers: submission.providers.clone(),
        only: submission.only,
        output: submission.output.clone(),
        begun_by,
        root: random()?,
    };
    let price = |quoted: &Quotation| typical(&quoted.tariff(), spec.largest, spec.warm);
    let prices = quotations.iter().map(price).collect();
    can_begin(submission.at_once, &spec, prices)?;
    let home = service.home.clone();
    let input = submission.input.clone();
    let create = move || folder::create(&home, &spec, &input, labels.as_deref());
    let created = tokio::task::spawn_blocking(create).await;
    Ok((created.map_err(failed)??, quotes))
}

/// Refuses a job that is wanted `at_once` and could only wait, since too few nodes take it for its price now. Any other
/// waits until its deadline: prices change, and nodes come.
fn can_begin(at_once: bool, spec: &Spec, prices: Vec<Credits>) -> Result<(), Failure> {
    match too_dear(spec, prices) {
        Some(dear) if at_once => Err(Failure::new(FailureKind::Refused, dear)),
        _ => Ok(()),
    }
}

/// What those that are asked are held against.
struct Sought {
    repeats: Repeats,
    wanted: Wanted,
    /// Who makes out the leases.
    account: AccountId,
    /// What the authors of the adapter get of each price.
    family: Split,
}

/// The input of the largest shard.
#[derive(Clone, Copy)]
struct Largest {
    bytes: u64,
    /// The line that it is of the job's input, from 1, if it is no more than one.
    alone: Option<u64>,
}

/// What those nodes ask for that take a shard as large as this, of whom there have to be enough, and
/// what all said.
async fn willing(
    service: &Arc<Service>,
    submission: &Submission,
    sought: &Sought,
    largest: Largest,
    progress: &ProgressSender,
) -> Result<(Vec<Quotation>, Quotes), Failure> {
    let asked = Asked::of(&submission.providers, submission.only)?;
    let swarm = service.swarm().await?;
    // Who is not there is waited for.
    let step = Progress {
        stage: "asking nodes what they would take".to_owned(),
        done: 0,
        total: None,
        unit: Unit::Shards,
        training: None,
        shard: None,
    };
    // A full channel means that nobody watches.
    let _ = progress.try_send(step);
    let mut quotes = around::quotes(swarm, asked, sought.wanted, largest.bytes).await;
    quotes = suitable(quotes, sought.account, &sought.family);
    if submission.attested {
        quotes = attest::attested(service, swarm, quotes).await;
    }
    let taking = quotes.iter().filter_map(|(_, quote)| quote.as_ref().ok());
    let taking: Vec<Quotation> = taking.copied().collect();
    let least = Credits::from_micro(submission.min_stake);
    let staked = money::staked(service, least, &taking)?;
    // An audit that those with something at stake cannot decide finds nothing.
    let needed = match submission.audit {
        0 => submission.replicas as usize,
        _ => SMALLEST_PANEL.max(submission.replicas as usize),
    };
    if staked < taking.len() && staked < needed {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!(
                "{staked} of {} nodes that take it have {least} credits at stake here, and \
                 {needed} have to; `skep account stake {least} --account …` puts them there for who \
                 gave you something for it, and --min-stake 0 does without: {}",
                taking.len(),
                whose(&taking)
            ),
        ));
    }
    if taking.len() >= submission.replicas as usize {
        let is_followed = sought.repeats == Repeats::Followed && submission.replicas == 1;
        let able = most_alike(&taking, false).max(match is_followed {
            true => most_alike(&taking, true),
            false => 0,
        });
        return match submission.audit == 0 || able >= SMALLEST_PANEL {
            true => Ok((taking, quotes)),
            false => Err(Failure::new(
                FailureKind::NotFound,
                format!(
                    "an audit takes {SMALLEST_PANEL} nodes on machines of one kind, or of any kinds \
                     if all that differs there are texts of a language model and --replicas is 1; of \
                     {} that take it {} are alike; name more with --provider, or leave --audit out",
                    taking.len(),
                    most_alike(&taking, false)
                ),
            )),
        };
    }
    let mut reason = match quotes.is_empty() {
        true => "no other node is known; name one by its ticket with --provider".to_owned(),
        false => format!(
            "{} of {} nodes take it, and each shard needs {}{}",
            taking.len(),
            quotes.len(),
            submission.replicas,
            match taking.len() == quotes.len() {
                true => "; name more with --provider, or lower --replicas".to_owned(),
                false => format!(": {}", around::why_nobody(&quotes)),
            }
        ),
    };
    if let Some(line) = largest.alone.filter(|_| is_too_large(&quotes)) {
        reason += &format!(
            "; line {line} of the input is that long by itself, so that more shards do not help: \
             shorten it, or ask nodes whose `largest-input` lets it in"
        );
    }
    Err(Failure::new(FailureKind::NotFound, reason))
}

/// Whether anybody would not take it because it is too large.
fn is_too_large(quotes: &Quotes) -> bool {
    let mut said = quotes.iter().map(|(_, quote)| quote);
    said.any(|quote| {
        matches!(
            quote,
            Err(TalkError::Refused(Refusal::InputTooLarge { .. }))
        )
    })
}

/// The accounts of those who take it.
fn whose(taking: &[Quotation]) -> String {
    let accounts = taking.iter().map(|quotation| quotation.account);
    let accounts = accounts.map(|account| AccountId::from_bytes(account).to_string());
    accounts.collect::<Vec<_>>().join(", ")
}

/// The most of these of which each could audit any other, by the same bytes or by following.
fn most_alike(taking: &[Quotation], followed: bool) -> usize {
    let alike = |one: &Quotation| {
        let others = taking.iter();
        others
            .filter(|other| other.can_audit(one, followed))
            .count()
    };
    taking.iter().map(alike).max().unwrap_or(0)
}

/// Why results are not audited that cannot be compared.
const NOT_REPEATABLE: &str = "the package reads other nodes' blobs or is asynchronous, so that its output may differ from \
     machine to machine and an audit would prove nothing; use --replicas instead of --audit";

/// Where the work gives the same bytes, and takes as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    /// Perhaps nowhere else.
    No,
    /// On all machines of one kind.
    Alike,
    /// On all machines, if they follow its texts.
    Followed,
}

async fn repeats(service: &Service, installed: &Installed) -> Result<Repeats, Failure> {
    let release = &installed.release;
    let path = release.component().and_then(|component| {
        let entry = component.entry.as_str();
        installed.path(entry)
    });
    let path =
        path.ok_or_else(|| Failure::new(FailureKind::Failed, "the package lacks its component"))?;
    let program = run::load(service, path).await?;
    Ok(match (program.is_repeatable(), program.can_be_followed()) {
        (false, _) => Repeats::No,
        (true, false) => Repeats::Alike,
        (true, true) => Repeats::Followed,
    })
}

/// The labels of a batch classifier, found to be ones before they go anywhere.
fn labels(world: &str, submission: &Submission) -> Result<Option<Vec<u8>>, Failure> {
    let usage = |reason: String| Failure::new(FailureKind::Usage, reason);
    if world != "batch-classifier" {
        return Ok(None);
    }
    if !submission.arguments.is_empty() {
        return Err(usage(run::NO_ARGUMENTS.to_owned()));
    }
    let path = submission
        .labels
        .as_deref()
        .ok_or_else(|| usage("a batch classifier needs --labels, as `skep run` does".to_owned()))?;
    let labels = std::fs::read(path).map_err(|error| cannot_read(path, &error))?;
    Labels::parse(&labels).map_err(|error| usage(format!("{}: {error}", path.display())))?;
    Ok(Some(labels))
}

/// Whether the input is comma-separated; if nothing says what it is, it has an object in each line.
fn is_csv(submission: &Submission) -> bool {
    match submission.format.as_deref() {
        Some(format) => format == "csv",
        None => Format::guess(&submission.input) == Some(Format::Csv),
    }
}

/// Where the header lies in a comma-separated input, and about so many shards of whole records.
fn csv_pieces(input: &Path, wanted: u32) -> Result<(Option<Piece>, Vec<Piece>), Failure> {
    let file = File::open(input).map_err(|error| cannot_read(input, &error))?;
    let found = CsvExtents::find(BufReader::with_capacity(1 << 18, file)).map_err(|error| {
        let failure = Failure::of(FailureKind::Usage, &error);
        Failure::new(
            FailureKind::Usage,
            format!("{}: {failure}", input.display()),
        )
    })?;
    let lengths = found.extents.iter().map(|extent| extent.bytes);
    let limits = limits_for(found.extents.len() as u64, wanted, SHARD);
    let runs = split(lengths, limits).map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let piece = |run: Range<u64>| {
        let extents = &found.extents[run.start as usize..run.end as usize];
        let first = extents.first()?;
        Some(Piece {
            start: first.start,
            bytes: extents.iter().map(|extent| extent.bytes).sum(),
            first_line: first.line,
            lines: extents.iter().map(|extent| extent.records).sum(),
        })
    };
    let header = Piece {
        start: found.header_start,
        bytes: found.header_bytes,
        first_line: 1,
        lines: found.header_lines,
    };
    Ok((Some(header), runs.into_iter().filter_map(piece).collect()))
}

/// Where about so many shards of whole lines lie in an input.
fn pieces(input: &Path, wanted: u32) -> Result<Vec<Piece>, Failure> {
    let lengths = lengths(input).map_err(|error| cannot_read(input, &error))?;
    let limits = limits_for(lengths.len() as u64, wanted, SHARD);
    let runs = split(lengths.iter().copied(), limits)
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let mut start = 0;
    let piece = |run: Range<u64>| {
        let (from, to) = (run.start as usize, run.end as usize);
        let bytes = lengths[from..to].iter().sum();
        let piece = Piece {
            start,
            bytes,
            first_line: run.start + 1,
            lines: run.end - run.start,
        };
        start += bytes;
        piece
    };
    Ok(runs.into_iter().map(piece).collect())
}

/// How long each line is, its end included. No line is held.
fn lengths(input: &Path) -> io::Result<Vec<u64>> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(input)?);
    let (mut lengths, mut length) = (Vec::new(), 0);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let newline = buffer.iter().position(|byte| *byte == b'\n');
        let taken = newline.map_or(buffer.len(), |newline| newline + 1);
        length += taken as u64;
        if newline.is_some() {
            lengths.push(std::mem::take(&mut length));
        }
        reader.consume(taken);
    }
    if length > 0 {
        lengths.push(length);
    }
    Ok(lengths)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FailureKind::NotFound,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_input_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        for (text, wanted) in [("a\nbb\n\nccc\nd", 2), ("one", 4), ("", 3), ("\n\n", 9)] {
            std::fs::write(&path, text).unwrap();
            let pieces = pieces(&path, wanted).unwrap();
            let (mut start, mut line) = (0, 1);
            for piece in &pieces {
                assert_eq!((piece.start, piece.first_line), (start, line), "{text:?}");
                let end = (piece.start + piece.bytes) as usize;
                let lines = text[start as usize..end].lines().count() as u64;
                assert_eq!(piece.lines, lines, "{text:?}");
                assert!(text[..end].ends_with('\n') || end == text.len());
                (start, line) = (end as u64, line + piece.lines);
            }
            assert_eq!(start, text.len() as u64, "{text:?}");
            assert!(pieces.len() <= wanted as usize);
        }
    }

    #[test]
    fn what_nobody_does_for_its_price_now_waits_unless_it_is_wanted_at_once() {
        let piece = Piece {
            start: 0,
            bytes: 2,
            first_line: 1,
            lines: 1,
        };
        let spec = Spec {
            budget: 10,
            ..folder::testing::spec(vec![piece])
        };
        let begins = |at_once, price| {
            let begun = can_begin(at_once, &spec, vec![Credits::from_micro(price)]);
            begun.map_err(|failure| (failure.kind, failure.message.contains("--max-price")))
        };
        assert_eq!(begins(false, 10), Ok(()));
        assert_eq!(begins(true, 10), Ok(()));
        assert_eq!(begins(false, 11), Ok(()));
        assert_eq!(begins(true, 11), Err((FailureKind::Refused, true)));
    }
}
