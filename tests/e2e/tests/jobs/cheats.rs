//! Those who cheat with the model itself: less of the prompt, a layer left out, weights in four bits, another shard's
//! texts, texts that were made up by one who follows others' as it should. Each has a stake, and each bills what an
//! honest run is billed. Whoever follows finds each of them out, and nobody else loses anything.

use std::sync::{Arc, LazyLock};

use skep_evidence::activations::{Commitment, States};
use skep_evidence::following::{Script, Transcript};
use skep_kernels::Isa;
use skep_market::ShardInput;
use skep_registry::Digest;

use super::audits::{CREDIT, assert_paid, line, own, stake};
use super::followed::OTHER_KIND;
use super::peers::{Made, Manner};
use super::served::Served;
use super::shown::{Asked, claiming, cuts_prompts, followed, honest, machine, written};
use super::*;

/// In two shards each has its own.
const LINES: [&str; 12] = [
    "ticket: I was charged twice for March.",
    "Good morning! What do you sell?",
    "It is a truth universally acknowledged, that",
    "What does \"honey\" mean?",
    "The bees came back in April, and",
    "Please cancel my order, because",
    "ticket: The app crashes when I open it.",
    "Who lives in the house by the river?",
    "Once upon a time there was a beekeeper who",
    "How do I get to the market from here?",
    "The rain had stopped by noon, so",
    "I would like to send this back, since",
];
/// Asked only when nobody that is cheaper is left.
const DEAR: &str = "price-per-teraflop = \"0.01\"\nprice-per-gigabyte = \"0.1\"\n";
/// What each has at stake, and what a proven fraud costs, in credits.
const STAKE: u64 = 15;
const FINE: u64 = 10;

/// How somebody makes a shard of its input.
type Makes = fn(&[u8]) -> Made;

/// What comes with skep, on a machine like this one.
fn here() -> &'static Arc<Served> {
    static MODEL: LazyLock<Arc<Served>> = LazyLock::new(|| honest(Isa::best()));
    &MODEL
}

/// Works at what is asked for by the input of a shard.
fn at_work<R>(input: &[u8], work: impl FnOnce(Asked<'_>) -> R) -> R {
    let shard = ShardInput::decode(input).unwrap();
    let arguments: Vec<&str> = shard.arguments.iter().map(String::as_str).collect();
    work(Asked {
        lines: shard.records,
        arguments: &arguments,
        seed: 0,
    })
}

/// What a cheat delivers that knows what it was asked for, and what an honest run comes to in which these texts are
/// written: for whoever follows nothing is another but what is behind the texts.
fn delivered(cheat: Transcript, asked: Asked<'_>) -> Made {
    let (right, ..) = written(here(), asked);
    let shown = claiming(cheat, &right);
    let (_, output, meter) = followed(here(), asked, shown.script());
    Made {
        output,
        shown: shown.encode(),
        meter,
    }
}

fn cuts(input: &[u8]) -> Made {
    static CUTS: LazyLock<Arc<Served>> = LazyLock::new(|| cuts_prompts(Isa::best()));
    at_work(input, |asked| delivered(written(&CUTS, asked).0, asked))
}

fn leaves_out_a_layer(input: &[u8]) -> Made {
    static SHALLOW: LazyLock<Arc<Served>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shallow.gguf");
        let model = fs::read(Built::language_model()).unwrap();
        fs::write(&path, cheaper::one_layer_fewer(&model)).unwrap();
        machine(&path, Isa::best())
    });
    at_work(input, |asked| delivered(written(&SHALLOW, asked).0, asked))
}

/// Makes the first shard as it should, and delivers as many of its texts for every other.
fn delivers_another_s(input: &[u8]) -> Made {
    at_work(input, |asked| {
        let lines = std::str::from_utf8(asked.lines).unwrap().lines().count();
        let first = LINES[..lines].join("\n");
        let is_first = asked.lines.starts_with(LINES[0].as_bytes());
        let other = Asked {
            lines: if is_first {
                asked.lines
            } else {
                first.as_bytes()
            },
            ..asked
        };
        delivered(written(here(), other).0, asked)
    })
}

/// As many tokens as there should be, all of them the same, and commitments to numbers that no model has computed.
fn makes_texts_up(input: &[u8]) -> Made {
    at_work(input, |asked| {
        let (mut cheat, ..) = written(here(), asked);
        let numbers: Vec<f32> = (0..4096).map(|n| (n * 37 % 101) as f32).collect();
        let commitment = Commitment::of(States::F32(&numbers)).unwrap();
        for text in cheat.0.iter_mut().flat_map(|answer| &mut answer.texts) {
            text.tokens.fill(500);
            text.commitments.fill(commitment);
        }
        delivered(cheat, asked)
    })
}

fn follows(input: &[u8], script: &[u8]) -> Made {
    let script = Script::decode(script).unwrap();
    at_work(input, |asked| {
        let (seen, output, meter) = followed(here(), asked, script);
        Made {
            output,
            shown: seen.encode(),
            meter,
        }
    })
}

/// Who asks, two honest nodes of different kinds, and what was found out so far.
struct Village {
    setting: Setting,
    requester: Node,
    honest: [Node; 2],
    accounts: [String; 2],
    spent: u64,
    frauds: u64,
}

impl Village {
    fn new(lines: &[&str], rules: &str) -> Self {
        let setting = Setting::texts(lines);
        let requester = Node::start(&Built::skep(), &setting.path("requester")).unwrap();
        let other_kind = format!("{rules}{OTHER_KIND}");
        let honest = [("a", other_kind.as_str()), ("b", rules)];
        let honest = honest.map(|(name, rules)| setting.provider(name, rules, 2));
        let village = Self {
            setting,
            requester,
            accounts: honest.each_ref().map(own),
            honest,
            spent: 0,
            frauds: 0,
        };
        for whose in &village.accounts {
            village.has_stake(whose);
        }
        village
    }

    fn has_stake(&self, whose: &str) {
        stake(self.requester.home(), &STAKE.to_string(), whose);
    }

    /// What somebody has at stake, in micro-credits.
    fn left(&self, whose: &str) -> u64 {
        line(self.requester.home(), "stakes", whose)
    }

    /// A job that the honest ones are asked to do, and one more.
    fn job(&mut self, other: &str, more: &[&str]) -> Value {
        let [a, b] = self.honest.each_ref().map(ticket);
        let submit = self.setting.submit(&[a, b, other], more);
        let mut job = self.requester.ask(&submit).unwrap();
        let job = job["job"].take();
        assert_eq!(job["state"], "done", "{job}");
        self.spent += micro(&job, "spent_micro");
        for whose in &self.accounts {
            assert_eq!(self.left(whose), STAKE * CREDIT, "{job}");
        }
        job
    }

    /// Whoever cheats in this shard of a job is found out there, by a proof that holds for a node which has nothing
    /// but the file, and has lost what a fraud costs.
    fn is_found_out(&mut self, job: &Value, whose: &str, wrong: usize) {
        for (number, shard) in job["shards"].as_array().unwrap().iter().enumerate() {
            let mut caught = 0;
            for audit in shard["audits"].as_array().unwrap() {
                assert_eq!(audit["followed"], true, "{job}");
                let cheats = number == wrong && audit["provider"] == *whose;
                let expected = if cheats { "wrong" } else { "passed" };
                assert_eq!(audit["state"], expected, "{job}");
                caught += usize::from(cheats);
            }
            assert_eq!(caught, usize::from(number == wrong), "{job}");
            let outvoted: &[&str] = if number == wrong { &[whose] } else { &[] };
            assert_eq!(shard["outvoted"], serde_json::json!(outvoted), "{job}");
        }
        let evidence = job["evidence"].as_array().unwrap();
        assert_eq!(evidence.len(), 1, "{job}");
        let judge = ["account", "judge", evidence[0].as_str().unwrap()];
        for node in &self.honest {
            let judged = node.ask(&judge).unwrap();
            assert_eq!(judged["guilty"], true, "{judged}");
            assert_eq!(judged["accused"], *whose, "{judged}");
        }
        assert_eq!(self.left(whose), (STAKE - FINE) * CREDIT, "{job}");
        self.frauds += 1;
    }

    /// The honest ones were paid for all that was paid for, and a quarter of each fine is the accuser's.
    fn assert_paid(&self) {
        let reward = self.frauds * FINE * CREDIT / 4;
        let [a, b] = &self.honest;
        assert_paid(self.requester.home(), [a, b], self.spent, reward);
    }
}

#[test]
fn whoever_saves_on_the_model_or_delivers_another_s_texts_is_found_out_and_pays() {
    let mut village = Village::new(&LINES, DEAR);
    let cheats: [(&str, u8, Makes, &str); 3] = [
        ("less of the prompt", 66, cuts, "1"),
        ("a layer fewer", 67, leaves_out_a_layer, "1"),
        ("another shard's texts", 68, delivers_another_s, "2"),
    ];
    for (what, seed, makes, shards) in cheats {
        println!("{what}");
        let folder = village.setting.path(&format!("cheat {seed}"));
        // It is free and says that it is ready, so that it is asked first for each shard.
        let cheat = Liar::with(&folder, seed, Manner::Shows(makes));
        village.has_stake(&cheat.account);
        let audited = ["--shards", shards, "--audit", "100%"];
        let more = [&audited[..], &["--", "max-tokens=8"]].concat();
        let job = village.job(&cheat.ticket, &more);
        let all = job["shards"].as_array().unwrap().len();
        village.is_found_out(&job, &cheat.account, all - 1);
        // It asks for nothing where it is right, and is given nothing where it is not.
        let paid = line(village.requester.home(), "balances", &cheat.account);
        assert_eq!(paid, 0, "{what}");
    }
    village.assert_paid();
}

#[test]
fn a_node_with_the_weights_in_four_bits_is_found_out_and_pays() {
    let mut village = Village::new(&LINES, DEAR);
    // The node finds the model where it would have written it, and looks no further.
    let model = fs::read(Built::language_model()).unwrap();
    let name = Digest::of(&model).to_string();
    let home = village.setting.path("cheat");
    let folder = home.join("embedded").join(name);
    fs::create_dir_all(&folder).unwrap();
    let narrow = cheaper::in_four_bits(&model);
    assert!(narrow.len() < model.len() * 3 / 4, "nothing was saved");
    fs::write(folder.join("skep-mini-lm.gguf"), narrow).unwrap();
    let cheat = village.setting.provider("cheat", "", 2);
    let whose = own(&cheat);
    village.has_stake(&whose);
    // Texts of which enough is drawn to tell: the same ones each time.
    let drawn = ["--", "temperature=0.8", "seed=7", "max-tokens=40"];
    let more = [&["--shards", "1", "--audit", "100%"], &drawn[..]].concat();
    let job = village.job(ticket(&cheat), &more);
    village.is_found_out(&job, &whose, 0);
    assert_eq!(line(village.requester.home(), "balances", &whose), 0);
    assert_eq!(micro(&account(cheat.home()), "earned_micro"), 0);
    village.assert_paid();
}

#[test]
fn who_follows_as_it_should_and_makes_its_own_texts_up_is_found_out_in_the_end_and_pays() {
    /// Of so many jobs none is drawn in one of two thousand million such tests.
    const MOST: usize = 60;
    let mut village = Village::new(&LINES[..3], "");
    let manner = Manner::TwoFaced {
        makes: makes_texts_up,
        follows,
    };
    let folder = village.setting.path("liar");
    let liar = Liar::dear_with(&folder, 66, manner);
    village.has_stake(&liar.account);
    let is_liar = |account: &Value| *account == *liar.account;

    // The others have room for a shard each and are cheaper, so that it makes none. It is the first to look at one of
    // two results in every other draw, and is paid for that.
    let audited = ["--shards", "2", "--audit", "100%", "--", "max-tokens=4"];
    let mut jobs = 0;
    while line(village.requester.home(), "balances", &liar.account) == 0 {
        assert!(jobs < MOST, "it was never asked to look at anything");
        jobs += 1;
        let job = village.job(&liar.ticket, &audited);
        for shard in job["shards"].as_array().unwrap() {
            for audit in shard["audits"].as_array().unwrap() {
                assert!(!is_liar(&audit["provider"]), "{job}");
                assert_eq!(audit["state"], "passed", "{job}");
            }
            assert_eq!(shard["outvoted"], serde_json::json!([]), "{job}");
        }
    }

    // Of three shards it makes one, of which three in ten are looked at.
    let drawn = ["--shards", "3", "--audit", "30%", "--", "max-tokens=4"];
    let (mut job, mut jobs) = (Value::Null, 0);
    while village.left(&liar.account) == STAKE * CREDIT {
        assert!(jobs < MOST, "it was never looked at");
        jobs += 1;
        job = village.job(&liar.ticket, &drawn);
        for shard in job["shards"].as_array().unwrap() {
            for audit in shard["audits"].as_array().unwrap() {
                let lied = is_liar(&audit["provider"]);
                let expected = if lied { "wrong" } else { "passed" };
                assert_eq!(audit["state"], expected, "{job}");
            }
        }
    }
    let shards = job["shards"].as_array().unwrap().iter();
    let wrong: Vec<&Value> = shards
        .filter(|shard| shard["outvoted"] != serde_json::json!([]))
        .collect();
    assert_eq!(wrong.len(), 1, "{job}");
    let outvoted = serde_json::json!([liar.account]);
    assert_eq!(wrong[0]["outvoted"], outvoted, "{job}");
    // It has lost what a fraud costs, by a proof that holds for a node which has nothing but the file.
    let evidence = job["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 1, "{job}");
    let judge = ["account", "judge", evidence[0].as_str().unwrap()];
    let judged = village.honest[1].ask(&judge).unwrap();
    assert_eq!(judged["guilty"], true, "{judged}");
    assert_eq!(judged["accused"], *liar.account, "{judged}");
    assert_eq!(village.left(&liar.account), (STAKE - FINE) * CREDIT);
}
