//! Families of releases that were signed here, honest and not.

use std::collections::BTreeMap;

use serde_json::json;
use skep_registry::{Adapter, Base, Content, Draft, FileEntry, PublisherKey};

use super::*;
use crate::credits::Credits;

struct Shelf {
    keys: Vec<PublisherKey>,
    releases: BTreeMap<Digest, (SignedRelease, Vec<u8>)>,
}

fn digest(what: &str) -> Digest {
    Digest::of(what.as_bytes())
}

fn lineage(base: &str, weights: &str, parent: Option<Digest>, share: u32) -> Value {
    json!({
        "format": 1,
        "base": {"name": base, "digest": digest(base)},
        "parent": parent,
        "share": share,
        "data": digest("data"),
        "recipe": digest("recipe"),
        "weights": digest(weights),
        "steps": 3,
        "hyper_parameters": {"rank": "4"},
        "metrics": {"loss": 0.5},
    })
}

type Read = Box<dyn FnOnce() -> std::io::Result<Vec<u8>>>;

impl Shelf {
    fn new() -> Self {
        Self {
            keys: (0..20).map(|_| PublisherKey::generate().unwrap()).collect(),
            releases: BTreeMap::new(),
        }
    }

    /// Publishes an adapter of this base with whatever it says of itself.
    fn publish(&mut self, key: usize, name: &str, base: &str, says: &Value) -> Digest {
        let bytes = serde_json::to_vec(says).unwrap();
        let file = |path: &str, digest, size| FileEntry {
            path: path.parse().unwrap(),
            digest,
            size,
        };
        let draft = Draft {
            name: name.parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            description: None,
            license: None,
            readme: None,
            content: Content::Adapter(Adapter {
                base: Base {
                    name: base.parse().unwrap(),
                    digest: digest(base),
                },
            }),
            files: vec![
                file(WEIGHTS, digest(name), 9),
                file(FILE, Digest::of(&bytes), bytes.len() as u64),
            ],
        };
        let release = draft.sign(&self.keys[key], None).unwrap();
        let own = release.digest();
        self.releases.insert(own, (release, bytes));
        own
    }

    /// One that says what is so.
    fn honest(&mut self, key: usize, name: &str, parent: Option<Digest>, share: u32) -> Digest {
        let says = lineage("base", name, parent, share);
        self.publish(key, name, "base", &says)
    }

    fn find(&self, digest: &Digest) -> Option<Found<Read>> {
        let (release, bytes) = self.releases.get(digest)?.clone();
        let read: Read = Box::new(move || Ok(bytes));
        Some(Found { release, read })
    }

    fn family(&self, digest: &Digest) -> Result<Family, LineageError> {
        Family::of(self.find(digest).unwrap(), |digest| self.find(digest))
    }

    fn refused(&self, digest: &Digest) -> String {
        self.family(digest).unwrap_err().to_string()
    }

    fn account(&self, key: usize) -> AccountId {
        self.keys[key].id().into()
    }
}

#[test]
fn a_use_of_a_grandchild_credits_its_whole_family() {
    let mut shelf = Shelf::new();
    let first = shelf.honest(1, "first", None, 50_000);
    let second = shelf.honest(2, "second", Some(first), 0);
    let third = shelf.honest(1, "third", Some(second), 30_000);
    let fourth = shelf.honest(3, "fourth", Some(third), 20_000);
    let family = shelf.family(&fourth).unwrap();
    let names: Vec<&str> = family.members.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["fourth", "third", "second", "first"]);
    let split = family.split().unwrap();
    let child = family.split_of_child(shelf.keys[2].id(), 900_000);
    assert_eq!(child.unwrap().shares().len(), 3);
    assert!(family.split_of_child(shelf.keys[2].id(), 900_001).is_err());
    let paid = split.divide(Credits::from_micro(1_000_000), shelf.account(9));
    let of = |key: usize| {
        let found = paid
            .iter()
            .find(|(account, _)| *account == shelf.account(key));
        found.map_or(0, |(_, credits)| credits.micro())
    };
    assert_eq!([of(1), of(2), of(3), of(9)], [80_000, 0, 20_000, 900_000]);
}

#[test]
fn what_contradicts_the_signed_release_is_refused() {
    let mut shelf = Shelf::new();
    for (name, says, why) in [
        (
            "wrong-base",
            lineage("other", "wrong-base", None, 0),
            "names the base",
        ),
        (
            "wrong-weights",
            lineage("base", "else", None, 0),
            "other weights",
        ),
        (
            "greedy",
            lineage("base", "greedy", None, 1_000_001),
            "more than the whole",
        ),
        ("nothing", json!({}), "says nothing"),
        (
            "no-digest",
            json!({"format": 1, "parent": "me"}),
            "says nothing",
        ),
    ] {
        let release = shelf.publish(0, name, "base", &says);
        let refused = shelf.refused(&release);
        assert!(refused.contains(why), "{name}: {refused}");
    }
    let mut newer = lineage("base", "newer", None, 0);
    newer["format"] = json!(2);
    let newer = shelf.publish(0, "newer", "base", &newer);
    assert!(shelf.refused(&newer).contains("format 2"));

    // A file that was changed after it was signed.
    let honest = shelf.honest(0, "honest", None, 10);
    let (release, bytes) = shelf.releases.get_mut(&honest).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    *bytes = text.replace("\"share\":10", "\"share\":99").into_bytes();
    assert!(release.file(FILE).is_some());
    assert!(
        shelf
            .refused(&honest)
            .contains("not the file that was signed")
    );
}

#[test]
fn a_parent_that_is_none_is_refused_and_one_that_is_not_here_is_told() {
    let mut shelf = Shelf::new();
    let stranger = lineage("other", "stranger", None, 0);
    let stranger = shelf.publish(4, "stranger", "other", &stranger);
    let child = shelf.honest(0, "child", Some(stranger), 0);
    assert!(shelf.refused(&child).contains("another base"));

    let orphan = shelf.honest(0, "orphan", Some(digest("nowhere")), 100);
    let family = shelf.family(&orphan).unwrap();
    assert_eq!(family.missing, Some(digest("nowhere")));
    // Nobody is paid less than asked because somebody is not here.
    assert!(matches!(family.split(), Err(LineageError::Missing { .. })));

    // Whoever finds releases by another name than their digest is not believed.
    let first = shelf.honest(1, "first", None, 0);
    let second = shelf.honest(1, "second", Some(first), 0);
    let swapped = Family::of(shelf.find(&second).unwrap(), |_| shelf.find(&second));
    assert!(swapped.unwrap_err().to_string().contains("another release"));
}

#[test]
fn a_line_has_an_end_and_shares_have_a_sum() {
    let mut shelf = Shelf::new();
    let mut last = shelf.honest(0, "g-0", None, 0);
    for n in 1..=MAX_GENERATIONS {
        last = shelf.honest(0, &format!("g-{n}"), Some(last), 0);
    }
    assert_eq!(
        shelf.family(&last).unwrap().members.len(),
        MAX_GENERATIONS + 1
    );
    let deep = shelf.honest(0, "deep", Some(last), 0);
    assert!(matches!(
        shelf.family(&deep),
        Err(LineageError::TooDeep { .. })
    ));

    let half = shelf.honest(1, "half", None, 500_000);
    let more = shelf.honest(2, "more", Some(half), 500_001);
    let asked = shelf.family(&more).unwrap().split();
    assert!(matches!(asked, Err(LineageError::Shares(_))));
    let mut many = shelf.honest(0, "many-0", None, 1);
    for n in 1..17 {
        many = shelf.honest(n, &format!("many-{n}"), Some(many), 1);
    }
    assert!(shelf.family(&many).unwrap().split().is_err());
}

#[test]
fn an_adapter_without_a_lineage_is_the_first_of_its_line() {
    let mut shelf = Shelf::new();
    let bare = shelf.honest(0, "bare", None, 0);
    let (release, _) = shelf.releases[&bare].clone();
    let draft = Draft {
        name: release.name().clone(),
        version: "1.0.1".parse().unwrap(),
        description: None,
        license: None,
        readme: None,
        content: release.content().clone(),
        files: vec![release.file(WEIGHTS).unwrap().clone()],
    };
    let bare = draft.sign(&shelf.keys[0], Some(&release)).unwrap();
    let digest = bare.digest();
    shelf.releases.insert(digest, (bare, Vec::new()));
    let child = shelf.honest(1, "child", Some(digest), 10);
    let family = shelf.family(&child).unwrap();
    assert_eq!((family.members.len(), family.missing), (2, None));
    assert_eq!(family.members[1].lineage, None);
    assert_eq!(family.split().unwrap().shares().len(), 1);
}
