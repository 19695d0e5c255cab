//! A requester that was killed at each point of an audit, with the files that are on its disk then: what was
//! kept of a result is there before that is written down or with it, and nothing is paid before the audit is. And
//! one that was killed while it kept its books: what it has paid and put together is in its ledger and its result
//! before its journal says so. And one that was killed before it gave anybody anything, or while an output came that
//! has a file of its own: what the job may cost is held once, and a file that is not whole is nothing.
//!
//! Each point is made of a job that ran to its end: its journal as far as it was written then, the files that were
//! there by then, and the books from before it. A provider of which a lease is asked for again that was paid since
//! has its books from before that; everything else is as it was.

use skep_evidence::{Agreed, Credits, Keys, Receipt, Signed};
use skep_market::{
    AttemptId, Book, Dealings, Earnings, EntryKind, Event, Finished, Journal, Kept, Ledger,
    Movement, Operation, Owed, Terms, Trail,
};
use skep_registry::Digest;

use super::setting::events_of;
use super::*;

/// What a node's own ledger is made with.
const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000 * Credits::ONE),
    fine: Credits::from_micro(10 * Credits::ONE),
    reward: 250_000,
};

fn ledger(home: &Path) -> Ledger {
    Ledger::open(&home.join("ledger.redb"), TERMS).unwrap()
}

/// What is written in the ledger in a home, in order.
pub(super) fn kinds(home: &Path) -> Vec<EntryKind> {
    let ledger = ledger(home);
    let entries = (0..ledger.len()).map(|number| ledger.entry(number).unwrap().unwrap());
    entries.map(|entry| entry.kind).collect()
}

fn dealings(home: &Path) -> Dealings {
    Dealings::open(&home.join("dealings.redb")).unwrap()
}

/// How far a requester had come with its books when it was killed. Each is there with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Books {
    /// A half of the output is behind the result.
    Torn,
    /// All of it is, and the ledger has paid.
    Posted,
    /// The receipts are kept for those who come for them.
    Kept,
    /// The journal says that all of this is so.
    Written,
    /// What was left over is given back.
    Refunded,
}

/// How far a requester had come that had given nobody anything when it was killed. Each is there with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// What the job is, and its input.
    Spec,
    /// A journal with nothing in it.
    Journal,
    /// What the job may cost is held.
    Funded,
}

/// How far an output had come when its requester was killed that has a file of its own.
#[derive(Clone, Copy, Debug)]
enum Coming {
    /// A half of it is in the file.
    Half,
    /// All of it is.
    All,
    /// The file has the name of an output, and the journal does not say yet that it came.
    Named,
}

/// What has more bytes comes into a file, and is not in the journal.
const INLINE: usize = 64 << 10;

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false if path.is_file() => drop(fs::copy(&path, &to).unwrap()),
            false => {}
        }
    }
}

/// The leases of which something came.
fn delivered(events: &[Event]) -> impl Iterator<Item = AttemptId> {
    events.iter().filter_map(|event| match event {
        Event::Delivered { id, .. } => Some(*id),
        _ => None,
    })
}

fn name_of(id: AttemptId) -> String {
    format!("{}-{}", id.shard, id.attempt)
}

/// A job that was done once, and the home of its requester from before.
struct Whole<'a> {
    setting: &'a Setting,
    before: PathBuf,
    folder: PathBuf,
    name: String,
    events: Vec<Event>,
    /// What was signed for each result.
    trails: Vec<(AttemptId, Trail)>,
    job: Value,
}

impl<'a> Whole<'a> {
    fn new(setting: &'a Setting, tickets: &[&str]) -> Self {
        let (requester, before) = (setting.path("requester"), setting.path("before"));
        copy(&requester, &before);
        let more = ["--shards", "1", "--audit", "100%", "--min-stake", "0"];
        let job = ask(&Built::skep(), &requester, &setting.submit(tickets, &more)).unwrap();
        setting.assert_right();
        let name = job["job"]["job"].as_str().unwrap().to_owned();
        let folder = requester.join("jobs").join(&name);
        let (journal, events) =
            Journal::open(&folder.join("journal.redb"), name.parse().unwrap()).unwrap();
        let trails = delivered(&events).map(|id| (id, journal.trail(id).unwrap().unwrap()));
        let trails = trails.collect();
        Self {
            setting,
            before,
            folder,
            name,
            events,
            trails,
            job: job["job"].clone(),
        }
    }

    /// How many events are written down before the first is paid.
    fn unpaid(&self) -> usize {
        let mut events = self.events.iter();
        let first = events.position(|event| matches!(event, Event::Paid { .. }));
        first.unwrap()
    }

    /// The home of a requester that was killed when so many events were written down, and what of the next
    /// one is kept before that is. What was signed is in the journal, or in files of its own as in earlier versions.
    fn killed_at(&self, home: &str, written: usize, in_files: bool) -> PathBuf {
        let home = self.setting.path(home);
        copy(&self.before, &home);
        let folder = home.join("jobs").join(&self.name);
        for empty in ["outputs", "trail", "shown"] {
            fs::create_dir_all(folder.join(empty)).unwrap();
        }
        copy(&self.folder.join("candidates"), &folder.join("candidates"));
        for file in ["spec.json", "input", "labels"] {
            if self.folder.join(file).exists() {
                fs::copy(self.folder.join(file), folder.join(file)).unwrap();
            }
        }
        let next = self.events.len().min(written + 1);
        for id in delivered(&self.events[..next]) {
            let file = Path::new("shown").join(name_of(id));
            if self.folder.join(&file).exists() {
                fs::copy(self.folder.join(&file), folder.join(&file)).unwrap();
            }
        }
        let were_written: Vec<AttemptId> = delivered(&self.events[..written]).collect();
        let mut trails = self.trails.clone();
        trails.retain(|(id, _)| were_written.contains(id));
        if in_files {
            for (id, trail) in trails.drain(..) {
                let signed = serde_json::json!({
                    "lease": trail.lease,
                    "commitment": trail.commitment,
                });
                fs::write(folder.join("trail").join(name_of(id)), signed.to_string()).unwrap();
            }
        }
        let job: Digest = self.name.parse().unwrap();
        let (mut journal, none) = Journal::open(&folder.join("journal.redb"), job).unwrap();
        assert_eq!(none, []);
        // Of one shard, all outputs are the result.
        let output = &self.setting.expected;
        let digest = Digest::of(output);
        let mut outputs = Vec::new();
        if output.len() <= INLINE {
            outputs.push((digest, output.clone()));
        } else if !were_written.is_empty() {
            let file = folder.join("outputs").join(digest.to_string());
            fs::write(file, output).unwrap();
        }
        journal
            .append_with(&self.events[..written], &Kept { outputs, trails })
            .unwrap();
        home
    }

    /// The leases of which something came, and nothing when so many events were written down.
    fn open_at(&self, written: usize) -> impl Iterator<Item = AttemptId> {
        let (before, after) = self.events.split_at(written);
        let is_leased = move |id: &AttemptId| {
            let mut leased = before.iter();
            leased.any(|event| matches!(event, Event::Leased { id: leased, .. } if leased == id))
        };
        delivered(after).filter(is_leased)
    }

    /// Has the provider of a lease be as it was when it had signed for it and was not paid.
    fn takes_back(&self, id: AttemptId, providers: &mut Vec<Node>) {
        let receipt = self.events.iter().find_map(|event| match event {
            Event::Delivered {
                id: of, receipt, ..
            } if *of == id => Some(receipt.clone()),
            _ => None,
        });
        let receipt = receipt.unwrap();
        let bill = Signed::<Receipt>::decode(&receipt, &mut Keys::default()).unwrap();
        let maker = bill.provider.to_string();
        let is_maker = |node: &Node| account(node.home())["account"] == *maker;
        let place = providers.iter().position(is_maker).unwrap();
        let node = providers.remove(place);
        let address = node.status["addresses"][0].as_str().unwrap().to_owned();
        let home = node.home().to_path_buf();
        node.kill().unwrap();
        let books = home.join("earnings.redb");
        fs::remove_file(&books).unwrap();
        let earnings = Earnings::open(&books).unwrap();
        // None of its receipts has the number of another.
        for _ in 0..100 {
            earnings.number().unwrap();
        }
        let mut trails = self.trails.iter();
        let (_, trail) = trails.find(|(of, _)| *of == id).unwrap();
        let finished = Finished {
            commitment: trail.commitment.clone(),
            receipt,
        };
        let owed = Owed {
            requester: bill.requester,
            price: bill.price,
            since: bill.finished,
            node: String::new(),
        };
        earnings.keep(bill.lease, finished, &owed).unwrap();
        drop(earnings);
        let node = Node::start_at(&Built::skep(), &home, &address).unwrap();
        providers.insert(place, node);
    }

    /// Goes on from each point, and checks what comes of it.
    fn goes_on_from_each_point(&self, providers: &mut Vec<Node>) {
        let audits = |event: &Event| {
            matches!(
                event,
                Event::Leased {
                    audits: Some(_),
                    ..
                }
            )
        };
        let has_auditor = self.events.iter().position(audits).unwrap();
        assert_eq!(self.trails.len(), 2, "one made it, and one looked at that");
        let all = (1..=self.unpaid()).map(|written| (written, false));
        // Once its auditor has a lease, what was signed for a result that is followed is read again.
        for (written, in_files) in all.chain([(has_auditor + 1, true)]) {
            let home = format!("killed at {written}, {in_files}");
            let home = self.killed_at(&home, written, in_files);
            for id in self.open_at(written) {
                self.takes_back(id, providers);
            }
            let paused = ask(&Built::skep(), &home, &["job", "status", &self.name]).unwrap();
            let is_finished = written == self.unpaid();
            assert_eq!(
                paused["job"]["finished"],
                u64::from(is_finished),
                "{paused}"
            );
            let at = written.to_string();
            let (shard, before) = (self.goes_on(&home, &at), &self.job["shards"][0]);
            if written > has_auditor {
                assert_eq!(shard, *before, "{written}");
            }
        }
    }

    /// Goes on in a home, and checks what comes of it. Returns what is seen of the shard then.
    fn goes_on(&self, home: &Path, at: &str) -> Value {
        let (shard, before) = (self.ends(home, at), &self.job["shards"][0]);
        // The result that there was counts.
        assert_eq!(shard["providers"], before["providers"], "{at}: {shard}");
        shard
    }

    /// The same where whoever makes the result may be another.
    fn ends(&self, home: &Path, at: &str) -> Value {
        fs::remove_file(self.setting.path("result.jsonl")).unwrap();
        let ended = ask(&Built::skep(), home, &["job", "watch", &self.name]).unwrap();
        self.setting.assert_right();
        let (shard, before) = (&ended["job"]["shards"][0], &self.job["shards"][0]);
        // It was looked at, and no lease was made anew.
        assert_eq!(shard["leases"], before["leases"], "{at}: {ended}");
        assert_eq!(shard["audits"][0]["state"], "passed", "{at}: {ended}");
        let (books, spent) = (account(home), micro(&self.job, "spent_micro"));
        assert_eq!(micro(&ended["job"], "spent_micro"), spent, "{at}");
        assert_eq!(micro(&books, "escrowed_micro"), 0, "{at}");
        assert_eq!(micro(&books, "available_micro"), 2_000_000 - spent, "{at}");
        shard.clone()
    }

    /// What was paid, as both signed it.
    fn receipts(&self) -> Vec<Agreed<Receipt>> {
        let kept = dealings(&self.setting.path("requester"));
        let leases = self.events.iter().filter_map(|event| match event {
            Event::Leased { lease, .. } => Some(*lease),
            _ => None,
        });
        let receipts = leases.filter_map(|lease| kept.receipt(lease).unwrap());
        let receipts = receipts
            .map(|receipt| Agreed::<Receipt>::decode(&receipt, &mut Keys::default()).unwrap());
        receipts.collect()
    }

    /// The home of a requester that was killed while it kept its books.
    fn killed_in_its_books(&self, books: Books, receipts: &[Agreed<Receipt>]) -> PathBuf {
        let written = match books >= Books::Written {
            true => self.events.len(),
            false => self.unpaid(),
        };
        let home = self.killed_at(&format!("killed, {books:?}"), written, false);
        let output = &self.setting.expected;
        let there = match books {
            Books::Torn => output.len() / 2,
            _ => output.len(),
        };
        let result = home.join("jobs").join(&self.name).join("result");
        fs::write(result, &output[..there]).unwrap();
        let posted = match books {
            Books::Torn => 1,
            Books::Posted | Books::Kept | Books::Written => 1 + receipts.len(),
            Books::Refunded => 2 + receipts.len(),
        };
        self.post(&home, posted, receipts);
        if books >= Books::Kept {
            dealings(&home).keep(receipts).unwrap();
        }
        home
    }

    /// Posts in a home the first so many of what was held, paid and given back.
    fn post(&self, home: &Path, posted: usize, receipts: &[Agreed<Receipt>]) {
        let (mut ledger, whole) = (ledger(home), ledger(&self.setting.path("requester")));
        let entries: Vec<_> = (ledger.len()..whole.len())
            .map(|number| whole.entry(number).unwrap().unwrap())
            .collect();
        assert_eq!(
            entries.len(),
            receipts.len() + 2,
            "held, paid and given back"
        );
        let operations = entries.iter().map(|entry| match entry.kind {
            EntryKind::Escrow => {
                let Movement { from, amount, .. } = entry.movements[0];
                let Book::Available(requester) = from else {
                    panic!("{from:?}");
                };
                Operation::Escrow {
                    id: entry.id,
                    job: entry.escrow.unwrap(),
                    requester,
                    amount,
                }
            }
            EntryKind::Release => {
                let its = |receipt: &&Agreed<Receipt>| receipt.digest() == entry.content;
                Operation::Release(receipts.iter().find(its).unwrap())
            }
            EntryKind::Refund => Operation::Refund {
                id: entry.id,
                job: entry.escrow.unwrap(),
            },
            other => panic!("{other:?}"),
        });
        let operations: Vec<Operation<'_>> = operations.take(posted).collect();
        for outcome in ledger.post(&operations).unwrap() {
            outcome.unwrap();
        }
        // To the byte what was there.
        for number in 0..ledger.len() {
            let there = whole.entry(number).unwrap();
            assert_eq!(ledger.entry(number).unwrap(), there, "{posted}: {number}");
        }
    }

    /// Goes on from each point within the books, and checks that none of it is there twice.
    fn goes_on_from_within_its_books(&self) {
        let receipts = self.receipts();
        assert_eq!(receipts.len(), 2, "one made it, and one looked at that");
        let head = ledger(&self.setting.path("requester")).head();
        for books in [
            Books::Torn,
            Books::Posted,
            Books::Kept,
            Books::Written,
            Books::Refunded,
        ] {
            let at = format!("{books:?}");
            let home = self.killed_in_its_books(books, &receipts);
            let paused = ask(&Built::skep(), &home, &["job", "status", &self.name]).unwrap();
            assert_eq!(paused["job"]["state"], "paused", "{at}: {paused}");
            assert_eq!(self.goes_on(&home, &at), self.job["shards"][0], "{at}");
            // All entries are those of the one that was never killed, in that order, and no more.
            assert_eq!(ledger(&home).head(), head, "{at}");
            for receipt in &receipts {
                let kept = dealings(&home).receipt(receipt.lease).unwrap();
                assert_eq!(kept, Some(receipt.encode()), "{at}");
            }
            let events = events_of(&home, &self.job);
            let is_paid = |event: &&Event| matches!(event, Event::Paid { .. });
            assert_eq!(events.iter().filter(is_paid).count(), 2, "{at}");
            let is_assembled = |event: &&Event| matches!(event, Event::Assembled { .. });
            assert_eq!(events.iter().filter(is_assembled).count(), 1, "{at}");
        }
    }

    /// The home of a requester that was killed before it gave anybody anything.
    fn killed_as_it_began(&self, begun: Begun, receipts: &[Agreed<Receipt>]) -> PathBuf {
        let home = self.killed_at(&format!("killed, {begun:?}"), 0, false);
        let folder = home.join("jobs").join(&self.name);
        for later in ["candidates", "trail", "shown"] {
            fs::remove_dir_all(folder.join(later)).unwrap();
        }
        match begun {
            Begun::Spec => fs::remove_file(folder.join("journal.redb")).unwrap(),
            Begun::Journal => {}
            Begun::Funded => self.post(&home, 1, receipts),
        }
        home
    }

    /// Goes on from each point before the first lease, and checks that the job is begun once. What those have who
    /// worked on it, here and before, is all that was spent.
    fn goes_on_from_before_its_first_lease(&self, providers: &[Node]) {
        let (requester, receipts) = (self.setting.path("requester"), self.receipts());
        let held = ledger(&self.before).len();
        let escrow = ledger(&requester).entry(held).unwrap().unwrap();
        assert_eq!(escrow.kind, EntryKind::Escrow);
        let mut jobs = 1;
        for begun in [Begun::Spec, Begun::Journal, Begun::Funded] {
            let home = self.killed_as_it_began(begun, &receipts);
            self.ends(&home, &format!("{begun:?}"));
            jobs += 1;
            // Held, paid and given back, each as often as if nobody had been killed.
            assert_eq!(kinds(&home), kinds(&requester), "{begun:?}");
            let its = ledger(&home).entry(held).unwrap();
            assert_eq!(its.as_ref(), Some(&escrow), "{begun:?}");
            let books = providers.iter().map(|node| account(node.home()));
            let books: Vec<Value> = books.collect();
            let sum = |what| books.iter().map(|books| micro(books, what)).sum::<u64>();
            assert_eq!(sum("receipts"), 2 * jobs, "{begun:?}");
            let spent = micro(&self.job, "spent_micro");
            assert_eq!(sum("earned_micro"), spent * jobs, "{begun:?}");
        }
    }

    /// The home of a requester that was killed when so many events were written down, and the output of the next one
    /// came.
    fn killed_while_it_came(&self, written: usize, coming: Coming) -> PathBuf {
        let home = self.killed_at(&format!("killed at {written}, {coming:?}"), written, false);
        let output = &self.setting.expected;
        let (file, there) = match coming {
            Coming::Half => (".tmpcoming".to_owned(), output.len() / 2),
            Coming::All => (".tmpcoming".to_owned(), output.len()),
            Coming::Named => (Digest::of(output).to_string(), output.len()),
        };
        let outputs = home.join("jobs").join(&self.name).join("outputs");
        fs::write(outputs.join(file), &output[..there]).unwrap();
        home
    }

    /// Goes on from each point at which an output comes, and checks that it is there once, and none of its files.
    fn goes_on_from_while_an_output_came(&self, providers: &mut Vec<Node>) {
        assert!(self.setting.expected.len() > INLINE);
        let mut points = Vec::new();
        for (written, event) in self.events.iter().enumerate() {
            match event {
                Event::Delivered { .. } if points.is_empty() => {
                    points
                        .extend([Coming::Half, Coming::All, Coming::Named].map(|is| (written, is)));
                }
                // The same bytes again, beside those that are kept.
                Event::Delivered { .. } => points.push((written, Coming::Half)),
                _ => {}
            }
        }
        assert_eq!(points.len(), 4, "one made it, and one looked at that");
        for (written, coming) in points {
            let home = self.killed_while_it_came(written, coming);
            for id in self.open_at(written) {
                self.takes_back(id, providers);
            }
            let at = format!("{written}, {coming:?}");
            let paused = ask(&Built::skep(), &home, &["job", "status", &self.name]).unwrap();
            assert_eq!(paused["job"]["state"], "paused", "{at}: {paused}");
            assert_eq!(paused["job"]["finished"], 0, "{at}: {paused}");
            self.goes_on(&home, &at);
            let outputs = home.join("jobs").join(&self.name).join("outputs");
            assert_eq!(files(&outputs), Vec::<PathBuf>::new(), "{at}");
        }
    }

    /// What whoever made the result has of it, as often as it was asked for.
    fn assert_paid_once(&self, providers: &[Node]) {
        let made = &self.job["shards"][0]["providers"][0];
        let books = providers.iter().map(|node| account(node.home()));
        let maker = books.into_iter().find(|books| books["account"] == *made);
        assert_eq!(micro(&maker.unwrap(), "receipts"), 1);
    }
}

#[test]
fn killed_at_each_point_of_an_audit_a_requester_loses_nothing_and_pays_once() {
    let setting = Setting::new(20);
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets = providers.each_ref().map(ticket);
    let whole = Whole::new(&setting, &tickets);
    let mut providers = Vec::from(providers);
    whole.goes_on_from_each_point(&mut providers);
    whole.assert_paid_once(&providers);
}

#[test]
fn killed_at_each_point_of_an_audit_that_follows_a_requester_loses_nothing_and_pays_once() {
    let setting = Setting::texts(&followed::LINES);
    let rules = [followed::OTHER_KIND, "", ""];
    let mut names = ["a", "b", "c"].into_iter().zip(rules);
    let providers = [(); 3].map(|()| {
        let (name, rules) = names.next().unwrap();
        setting.provider(name, rules, 2)
    });
    let tickets = providers.each_ref().map(ticket);
    let whole = Whole::new(&setting, &tickets);
    assert_eq!(whole.job["shards"][0]["audits"][0]["followed"], true);
    assert!(whole.folder.join("shown").join("0-1").exists());
    let mut providers = Vec::from(providers);
    whole.goes_on_from_each_point(&mut providers);
    whole.assert_paid_once(&providers);
}

#[test]
fn killed_between_its_ledger_and_its_journal_a_requester_pays_once_and_has_its_result_once() {
    let setting = Setting::new(20);
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets = providers.each_ref().map(ticket);
    let whole = Whole::new(&setting, &tickets);
    whole.goes_on_from_within_its_books();
    whole.assert_paid_once(&providers);
}

#[test]
fn killed_before_its_first_lease_a_requester_begins_once_and_pays_once() {
    let setting = Setting::new(20);
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets = providers.each_ref().map(ticket);
    let whole = Whole::new(&setting, &tickets);
    whole.goes_on_from_before_its_first_lease(&providers);
}

#[test]
fn killed_while_a_large_output_comes_a_requester_has_it_once_and_pays_once() {
    let setting = Setting::echoes(8_000);
    let providers = ["a", "b", "c"].map(|name| setting.provider(name, "", 2));
    let tickets = providers.each_ref().map(ticket);
    let whole = Whole::new(&setting, &tickets);
    let mut providers = Vec::from(providers);
    whole.goes_on_from_while_an_output_came(&mut providers);
    whole.assert_paid_once(&providers);
}
