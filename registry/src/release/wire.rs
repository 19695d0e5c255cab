//! The canonical encoding: deterministic CBOR (RFC 8949, section 4.2.1).
//!
//! ```text
//! signed release = [body: bytes, signature: bytes .size 64]
//! body = {
//!   1: format (1)            5: sequence, from 0        9: readme, a path        (optional)
//!   2: publisher, 32 bytes   6: previous, 32 bytes     10: [+ [path, digest, size]]
//!   3: name                     (all but the first)    11: component             (one of
//!   4: version               7: description (optional) 12: model                  the
//!                            8: licence     (optional) 13: adapter                three)
//! }
//! component = { 1: world, 2: entry path, 3: grants, 4: limits, 5: [* import] }
//! grants    = { 1: tensor, bool, 2: [* model], 3: [* digest] or true for all, 4: swarm-write, bool,
//!               ? 5: [+ adapter], ? 6: the price of all jobs of a run, in millionths of a credit }
//! limits    = { ? 1: memory … ? 10: log }, in bytes, milliseconds or operations
//! model     = { 1: task }
//! adapter   = { 1: the base's name, 2: its digest }
//! ```
//!
//! Lengths are definite, integers as short as can be, keys ascending. Reading is lenient about
//! the spelling, because the caller writes what was read once more and compares, and strict about
//! everything else: no unknown key, no key twice, nothing longer than its bound.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::check::{MAX_DESCRIPTION, MAX_FILES, MAX_IMPORT, MAX_IMPORTS, MAX_LICENSE, MAX_VERSION};
use super::{Adapter, Base, Component, Content, FileEntry, Model, Release, ReleaseError};
use crate::digest::Digest;
use crate::grants::{Grants, JobsGrant, ModelGrant, SwarmRead};
use crate::limits::{self, Limits};
use crate::name::MAX_NAME;
use crate::path::MAX_PATH;
use crate::publisher::PublisherId;
use crate::units;

const FORMAT: u64 = 1;
const MAX_MODELS: usize = 256;
const MAX_READS: usize = 4096;
/// The longest text of a model grant: a publisher, a slash and a name; a digest is shorter.
const MAX_MODEL: usize = 56 + 1 + MAX_NAME;

type Out = Encoder<Vec<u8>>;
type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

/// The body and its signature in one.
pub(super) fn seal(body: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    written(|out| out.array(2)?.bytes(body)?.bytes(signature)?.ok())
}

/// The body of a release.
pub(super) fn encode(release: &Release) -> Vec<u8> {
    written(|out| write_release(out, release))
}

#[expect(
    clippy::expect_used,
    reason = "writing to memory has no error: its type is uninhabited"
)]
fn written(write: impl FnOnce(&mut Out) -> Written) -> Vec<u8> {
    let mut out = Encoder::new(Vec::new());
    write(&mut out).expect("writing to memory does not fail");
    out.into_writer()
}

fn write_release(out: &mut Out, release: &Release) -> Written {
    let optional = [
        release.previous.is_some(),
        release.description.is_some(),
        release.license.is_some(),
        release.readme.is_some(),
    ];
    let fields = 7 + optional.into_iter().filter(|present| *present).count() as u64;
    out.map(fields)?;
    out.u8(1)?.u64(FORMAT)?;
    out.u8(2)?.bytes(release.publisher.as_bytes())?;
    out.u8(3)?.str(release.name.as_str())?;
    out.u8(4)?.str(&release.version.to_string())?;
    out.u8(5)?.u64(release.sequence)?;
    if let Some(previous) = &release.previous {
        out.u8(6)?.bytes(previous.as_bytes())?;
    }
    if let Some(description) = &release.description {
        out.u8(7)?.str(description)?;
    }
    if let Some(license) = &release.license {
        out.u8(8)?.str(license)?;
    }
    if let Some(readme) = &release.readme {
        out.u8(9)?.str(readme.as_str())?;
    }
    out.u8(10)?.array(release.files.len() as u64)?;
    for file in &release.files {
        out.array(3)?
            .str(file.path.as_str())?
            .bytes(file.digest.as_bytes())?
            .u64(file.size)?;
    }
    match &release.content {
        Content::Component(component) => {
            out.u8(11)?;
            write_component(out, component)
        }
        Content::Model(model) => out.u8(12)?.map(1)?.u8(1)?.str(model.task.as_str())?.ok(),
        Content::Adapter(Adapter { base }) => {
            out.u8(13)?.map(2)?.u8(1)?.str(base.name.as_str())?;
            out.u8(2)?.bytes(base.digest.as_bytes())?.ok()
        }
    }
}

fn write_component(out: &mut Out, component: &Component) -> Written {
    out.map(5)?;
    out.u8(1)?.str(component.world.as_str())?;
    out.u8(2)?.str(component.entry.as_str())?;
    out.u8(3)?;
    write_grants(out, &component.grants)?;
    out.u8(4)?;
    write_limits(out, &component.limits)?;
    out.u8(5)?.array(component.imports.len() as u64)?;
    for import in &component.imports {
        out.str(import)?;
    }
    Ok(())
}

fn write_grants(out: &mut Out, grants: &Grants) -> Written {
    let optional = [!grants.adapters.is_empty(), grants.jobs.is_some()];
    out.map(4 + optional.into_iter().filter(|present| *present).count() as u64)?;
    out.u8(1)?.bool(grants.tensor)?;
    out.u8(2)?.array(grants.models.len() as u64)?;
    for model in &grants.models {
        out.str(&model.to_string())?;
    }
    out.u8(3)?;
    match &grants.swarm_read {
        SwarmRead::Everything => out.bool(true)?.ok()?,
        SwarmRead::Only(digests) => {
            out.array(digests.len() as u64)?;
            for digest in digests {
                out.bytes(digest.as_bytes())?;
            }
        }
    }
    out.u8(4)?.bool(grants.swarm_write)?;
    // Left out where there are none, as releases did before there were adapters.
    if !grants.adapters.is_empty() {
        out.u8(5)?.array(grants.adapters.len() as u64)?;
        for adapter in &grants.adapters {
            out.str(&adapter.to_string())?;
        }
    }
    if let Some(jobs) = &grants.jobs {
        out.u8(6)?.u64(jobs.max_price)?;
    }
    Ok(())
}

fn write_limits(out: &mut Out, limits: &Limits) -> Written {
    let amounts = limits.amounts();
    out.map(amounts.iter().flatten().count() as u64)?;
    for (key, amount) in (1..).zip(amounts) {
        if let Some(amount) = amount {
            out.u8(key)?.u64(amount)?;
        }
    }
    Ok(())
}

/// Splits a signed release into its body and its signature.
pub(super) fn open(encoding: &[u8]) -> Result<(&[u8], [u8; 64]), ReleaseError> {
    let mut input = Decoder::new(encoding);
    expect_length(input.array()?, 2, "a signed release")?;
    let body = input.bytes()?;
    let signature = input.bytes()?;
    let signature = signature.try_into().map_err(|_| {
        malformed(format!(
            "a signature has 64 bytes, and this has {}",
            signature.len()
        ))
    })?;
    Ok((body, signature))
}

/// Reads a body. Whether it is canonical, signed and follows the rules is for the caller to check.
pub(super) fn decode(body: &[u8]) -> Result<Release, ReleaseError> {
    let mut input = Decoder::new(body);
    let mut fields = Fields::begin(&mut input, "the release")?;
    // The format comes first, because it says how to read the rest.
    if fields.next(&mut input)? != Some(1) {
        return Err(malformed("it does not begin with its format"));
    }
    let format = input.u64()?;
    if format != FORMAT {
        return Err(ReleaseError::UnknownFormat { found: format });
    }
    let (mut publisher, mut name, mut version, mut sequence, mut previous) =
        (None, None, None, None, None);
    let (mut description, mut license, mut readme, mut files, mut content) =
        (None, None, None, None, None);
    while let Some(key) = fields.next(&mut input)? {
        match key {
            2 => {
                publisher = Some(
                    PublisherId::from_bytes(&fixed(&mut input)?)
                        .map_err(|e| malformed(e.to_string()))?,
                )
            }
            3 => name = Some(parsed(&mut input, MAX_NAME)?),
            4 => version = Some(parsed(&mut input, MAX_VERSION)?),
            5 => sequence = Some(input.u64()?),
            6 => previous = Some(Digest::from_bytes(fixed(&mut input)?)),
            // Characters are at most four bytes.
            7 => description = Some(text(&mut input, 4 * MAX_DESCRIPTION)?.to_owned()),
            8 => license = Some(text(&mut input, 4 * MAX_LICENSE)?.to_owned()),
            9 => readme = Some(parsed(&mut input, MAX_PATH)?),
            10 => files = Some(list(&mut input, MAX_FILES, read_file)?),
            11 if content.is_none() => {
                content = Some(Content::Component(read_component(&mut input)?))
            }
            12 if content.is_none() => content = Some(Content::Model(read_model(&mut input)?)),
            13 if content.is_none() => content = Some(Content::Adapter(read_adapter(&mut input)?)),
            _ => return Err(fields.unknown(key)),
        }
    }
    Ok(Release {
        publisher: publisher.ok_or_else(|| missing("publisher"))?,
        name: name.ok_or_else(|| missing("name"))?,
        version: version.ok_or_else(|| missing("version"))?,
        sequence: sequence.ok_or_else(|| missing("sequence"))?,
        previous,
        description,
        license,
        readme,
        files: files.ok_or_else(|| missing("files"))?,
        content: content.ok_or_else(|| missing("component, model or adapter"))?,
    })
}

fn read_file(input: &mut Decoder<'_>) -> Result<FileEntry, ReleaseError> {
    expect_length(input.array()?, 3, "a file's entry")?;
    Ok(FileEntry {
        path: parsed(input, MAX_PATH)?,
        digest: Digest::from_bytes(fixed(input)?),
        size: input.u64()?,
    })
}

fn read_component(input: &mut Decoder<'_>) -> Result<Component, ReleaseError> {
    let (mut world, mut entry, mut grants, mut limits, mut imports) =
        (None, None, None, None, None);
    let mut fields = Fields::begin(input, "the component")?;
    while let Some(key) = fields.next(input)? {
        match key {
            1 => world = Some(parsed(input, MAX_NAME)?),
            2 => entry = Some(parsed(input, MAX_PATH)?),
            3 => grants = Some(read_grants(input)?),
            4 => limits = Some(read_limits(input)?),
            5 => {
                imports = Some(list(input, MAX_IMPORTS, |input| {
                    Ok(text(input, MAX_IMPORT)?.to_owned())
                })?)
            }
            _ => return Err(fields.unknown(key)),
        }
    }
    Ok(Component {
        world: world.ok_or_else(|| missing("world"))?,
        entry: entry.ok_or_else(|| missing("component's path"))?,
        grants: grants.ok_or_else(|| missing("grants"))?,
        limits: limits.ok_or_else(|| missing("limits"))?,
        imports: imports.ok_or_else(|| missing("imports"))?,
    })
}

fn read_model(input: &mut Decoder<'_>) -> Result<Model, ReleaseError> {
    let mut task = None;
    let mut fields = Fields::begin(input, "the model")?;
    while let Some(key) = fields.next(input)? {
        match key {
            1 => task = Some(parsed(input, MAX_NAME)?),
            _ => return Err(fields.unknown(key)),
        }
    }
    Ok(Model {
        task: task.ok_or_else(|| missing("task"))?,
    })
}

fn read_adapter(input: &mut Decoder<'_>) -> Result<Adapter, ReleaseError> {
    let (mut name, mut digest) = (None, None);
    let mut fields = Fields::begin(input, "the adapter")?;
    while let Some(key) = fields.next(input)? {
        match key {
            1 => name = Some(parsed(input, MAX_NAME)?),
            2 => digest = Some(Digest::from_bytes(fixed(input)?)),
            _ => return Err(fields.unknown(key)),
        }
    }
    Ok(Adapter {
        base: Base {
            name: name.ok_or_else(|| missing("base's name"))?,
            digest: digest.ok_or_else(|| missing("base's digest"))?,
        },
    })
}

fn read_grants(input: &mut Decoder<'_>) -> Result<Grants, ReleaseError> {
    let mut grants = Grants::default();
    let mut fields = Fields::begin(input, "the grants")?;
    while let Some(key) = fields.next(input)? {
        match key {
            1 => grants.tensor = input.bool()?,
            2 => {
                let models: Vec<ModelGrant> =
                    list(input, MAX_MODELS, |input| parsed(input, MAX_MODEL))?;
                grants.models = models.into_iter().collect();
            }
            3 if input.datatype()? == Type::Bool => {
                grants.swarm_read = if input.bool()? {
                    SwarmRead::Everything
                } else {
                    SwarmRead::default()
                };
            }
            3 => {
                let digests = list(input, MAX_READS, |input| {
                    Ok(Digest::from_bytes(fixed(input)?))
                })?;
                grants.swarm_read = SwarmRead::Only(BTreeSet::from_iter(digests));
            }
            4 => grants.swarm_write = input.bool()?,
            5 => {
                let adapters: Vec<ModelGrant> =
                    list(input, MAX_MODELS, |input| parsed(input, MAX_MODEL))?;
                if adapters.contains(&ModelGrant::Default) {
                    return Err(malformed("there is no default adapter to grant"));
                }
                grants.adapters = adapters.into_iter().collect();
            }
            6 => {
                let max_price = input.u64()?;
                if max_price > units::MAX_CREDITS {
                    return Err(malformed("it would spend more credits than there can be"));
                }
                grants.jobs = Some(JobsGrant { max_price });
            }
            _ => return Err(fields.unknown(key)),
        }
    }
    Ok(grants)
}

fn read_limits(input: &mut Decoder<'_>) -> Result<Limits, ReleaseError> {
    let mut amounts = [None; limits::COUNT];
    let mut fields = Fields::begin(input, "the limits")?;
    while let Some(key) = fields.next(input)? {
        let index = usize::try_from(key).ok().and_then(|key| key.checked_sub(1));
        let slot = index
            .and_then(|index| amounts.get_mut(index))
            .ok_or_else(|| fields.unknown(key))?;
        *slot = Some(input.u64()?);
    }
    Ok(Limits::from_amounts(amounts))
}

/// The keys of a map, of which each has to be above the one before.
struct Fields {
    of: &'static str,
    left: u64,
    last: u64,
}

impl Fields {
    fn begin(input: &mut Decoder<'_>, of: &'static str) -> Result<Self, ReleaseError> {
        let left = input.map()?.ok_or(ReleaseError::NotCanonical)?;
        Ok(Self { of, left, last: 0 })
    }

    /// The next key, after whose value this is to be called again.
    fn next(&mut self, input: &mut Decoder<'_>) -> Result<Option<u64>, ReleaseError> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        let key = input.u64()?;
        if key <= self.last {
            return Err(ReleaseError::NotCanonical);
        }
        self.last = key;
        Ok(Some(key))
    }

    fn unknown(&self, key: u64) -> ReleaseError {
        malformed(format!(
            "{} has a field {key}, which format {FORMAT} does not",
            self.of
        ))
    }
}

/// A list of at most `max`, whose length is believed only item by item.
fn list<'b, T>(
    input: &mut Decoder<'b>,
    max: usize,
    item: impl Fn(&mut Decoder<'b>) -> Result<T, ReleaseError>,
) -> Result<Vec<T>, ReleaseError> {
    let length = input.array()?.ok_or(ReleaseError::NotCanonical)?;
    if length > max as u64 {
        return Err(malformed(format!(
            "a list of {length}, where at most {max} are allowed"
        )));
    }
    (0..length).map(|_| item(input)).collect()
}

fn text<'b>(input: &mut Decoder<'b>, max: usize) -> Result<&'b str, ReleaseError> {
    let text = input.str()?;
    if text.len() > max {
        return Err(malformed(format!(
            "a text of {} bytes, where at most {max} are allowed",
            text.len()
        )));
    }
    Ok(text)
}

fn parsed<T: FromStr<Err: Display>>(
    input: &mut Decoder<'_>,
    max: usize,
) -> Result<T, ReleaseError> {
    text(input, max)?
        .parse()
        .map_err(|error: T::Err| malformed(error.to_string()))
}

fn fixed(input: &mut Decoder<'_>) -> Result<[u8; 32], ReleaseError> {
    let bytes = input.bytes()?;
    bytes.try_into().map_err(|_| {
        malformed(format!(
            "{} bytes, where a digest or a key has 32",
            bytes.len()
        ))
    })
}

fn expect_length(found: Option<u64>, expected: u64, what: &str) -> Result<(), ReleaseError> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(malformed(format!(
            "{what} has {expected} parts, and this has {found}"
        ))),
        None => Err(ReleaseError::NotCanonical),
    }
}

fn missing(what: &str) -> ReleaseError {
    malformed(format!("its {what} is missing"))
}

fn malformed(reason: impl Into<String>) -> ReleaseError {
    ReleaseError::Malformed {
        reason: reason.into(),
    }
}

impl From<minicbor::decode::Error> for ReleaseError {
    fn from(error: minicbor::decode::Error) -> Self {
        malformed(error.to_string())
    }
}
