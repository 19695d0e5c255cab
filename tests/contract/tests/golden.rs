//! The contract is what components in the wild were built against, so its text is held to a
//! golden copy: `golden/*.wit`, one file for each package, without comments.
//!
//! Comments may be improved at any time. Anything else is a change of the contract, and the rule
//! is that an incompatible change becomes a new version beside the old one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use wit_component::{OutputToString, WitPrinter};
use wit_parser::{Docs, Function, Resolve, Type, TypeDefKind, TypeOwner, WorldItem};

/// Set to 1, it writes the golden copies anew.
const UPDATE: &str = "SKEP_UPDATE_WIT_GOLDEN";

const VERSION: &str = "0.1.0";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn contract() -> Resolve {
    let mut resolve = Resolve::default();
    resolve
        .push_dir(folder("../../wit"))
        .expect("wit/ is well-formed");
    resolve
}

/// Every package's text as the printer of `wit-component` writes it, without comments.
fn printed(resolve: &Resolve) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (id, package) in resolve.packages.iter() {
        let mut printer = WitPrinter::new(OutputToString::default());
        printer
            .emit_docs(false)
            .print(resolve, id, &[])
            .expect("a parsed package can be printed");
        let text = String::from(printer.output);
        texts.insert(format!("{}.wit", package.name.name), text);
    }
    texts
}

#[test]
fn the_contract_is_what_was_published() {
    let golden = folder("golden");
    let printed = printed(&contract());
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        fs::create_dir_all(&golden).unwrap();
        for (name, text) in &printed {
            fs::write(golden.join(name), text).unwrap();
        }
    }
    let kept: BTreeMap<String, String> = fs::read_dir(&golden)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    for name in printed.keys().chain(kept.keys()) {
        let (now, before) = (printed.get(name), kept.get(name));
        if now != before {
            panic!(
                "the contract differs from what was published, in {name}, {}.\n\
                 Components in the wild were built against the published text. If they would no \
                 longer link or mean the same, leave the old package as it is and put a new \
                 version beside it. If the change only adds to the contract, or nothing was \
                 published yet, accept it:\n\n    {UPDATE}=1 cargo test -p skep-contract-tests\n",
                first_difference(now, before)
            );
        }
    }
}

fn first_difference(now: Option<&String>, before: Option<&String>) -> String {
    let (Some(now), Some(before)) = (now, before) else {
        let what = if now.is_some() { "is new" } else { "is gone" };
        return format!("a package that {what}");
    };
    let same = now
        .lines()
        .zip(before.lines())
        .take_while(|(now, before)| now == before)
        .count();
    let line = |text: &str| {
        text.lines()
            .nth(same)
            .unwrap_or("(the end)")
            .trim()
            .to_owned()
    };
    format!("line {}: `{}` was `{}`", same + 1, line(now), line(before))
}

#[test]
fn every_package_has_the_same_version() {
    for (_, package) in contract().packages.iter() {
        let version = package.name.version.as_ref().map(ToString::to_string);
        assert_eq!(package.name.namespace, "skep", "{}", package.name);
        assert_eq!(version.as_deref(), Some(VERSION), "{}", package.name);
    }
}

#[test]
fn everything_is_documented() {
    let resolve = contract();
    let mut bare = Vec::new();
    let mut check = |docs: &Docs, what: String| {
        if docs
            .contents
            .as_deref()
            .is_none_or(|text| text.trim().is_empty())
        {
            bare.push(what);
        }
    };
    for (_, interface) in resolve.interfaces.iter() {
        let name = interface.name.clone().unwrap_or_default();
        check(&interface.docs, name.clone());
        for function in interface.functions.values() {
            check(&function.docs, described(&name, function));
        }
    }
    for (_, world) in resolve.worlds.iter() {
        check(&world.docs, world.name.clone());
        for item in world.exports.values() {
            if let WorldItem::Function(function) = item {
                check(&function.docs, described(&world.name, function));
            }
        }
    }
    for (_, def) in resolve.types.iter() {
        let (Some(name), TypeOwner::Interface(_)) = (&def.name, def.owner) else {
            continue;
        };
        match &def.kind {
            // What `use` brings in is documented where it comes from.
            TypeDefKind::Type(Type::Id(_)) => continue,
            TypeDefKind::Enum(def) => {
                for case in &def.cases {
                    check(&case.docs, format!("{name}.{}", case.name));
                }
            }
            TypeDefKind::Variant(def) => {
                for case in &def.cases {
                    check(&case.docs, format!("{name}.{}", case.name));
                }
            }
            // The text of the record may speak of a field instead.
            TypeDefKind::Record(record) => {
                let text = def.docs.contents.as_deref().unwrap_or_default();
                for field in &record.fields {
                    if !text.contains(&format!("`{}`", field.name)) {
                        check(&field.docs, format!("{name}.{}", field.name));
                    }
                }
            }
            _ => {}
        }
        check(&def.docs, name.clone());
    }
    assert!(
        bare.is_empty(),
        "without a word of documentation: {}",
        bare.join(", ")
    );
}

fn described(owner: &str, function: &Function) -> String {
    format!("{owner}: {}", function.name)
}
