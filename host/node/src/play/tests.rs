//! What players type is understood, and a game is shown as it happens.

use std::io::Cursor;

use super::{
    Answer, Command, Deed, Event, Game, Manner, PlayError, Snapshot, Tally, View, parse, play,
    read_line,
};

fn view() -> View {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    View {
        place: "mill".to_owned(),
        day: 1,
        minute: 425,
        time: "morning".to_owned(),
        weather: "rain".to_owned(),
        paths: texts(&["tavern", "bridge"]),
        people: vec![
            ("Odo".to_owned(), "miller".to_owned()),
            ("Nell".to_owned(), "smith".to_owned()),
        ],
        lying: texts(&["map"]),
        carried: texts(&["key"]),
        coins: 7,
        wishes: Vec::new(),
    }
}

fn say(person: &str, words: &str) -> Command {
    Command::Say(person.to_owned(), words.to_owned())
}

#[test]
fn verbs_are_deeds_and_the_rest_is_said() {
    let view = view();
    let read = |line: &str| parse(line, &view, Some("Nell")).unwrap();
    assert_eq!(read("  "), Command::Nothing);
    assert_eq!(
        read("go tavern"),
        Command::Do(Deed::Go("tavern".to_owned()))
    );
    assert_eq!(
        read("Take the map"),
        Command::Do(Deed::Take("map".to_owned()))
    );
    assert_eq!(read("take me home"), say("Nell", "take me home"));
    assert_eq!(
        read("give the key to odo"),
        Command::Do(Deed::Give("key".to_owned(), "Odo".to_owned()))
    );
    assert_eq!(read("give me the map"), say("Nell", "give me the map"));
    assert_eq!(
        read("pay 3 coins to Odo"),
        Command::Do(Deed::Pay(3, "Odo".to_owned()))
    );
    assert_eq!(read("wait"), Command::Do(Deed::Wait(30)));
    assert_eq!(read("odo: hello"), say("Odo", "hello"));
    assert_eq!(read("listen: hello"), say("Nell", "listen: hello"));
    assert!(
        parse("hello", &view, None)
            .unwrap_err()
            .contains("Odo: hello")
    );
    assert!(parse("wait forever", &view, None).is_err());
}

#[test]
fn long_lines_are_cut_and_odd_bytes_replaced() {
    let mut bytes = vec![b'a'; 10_000];
    bytes.extend(b"\nb\xff\r\nend");
    let mut input = Cursor::new(bytes);
    assert_eq!(read_line(&mut input).unwrap().unwrap().len(), 4096);
    assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("b\u{fffd}"));
    assert_eq!(read_line(&mut input).unwrap().as_deref(), Some("end"));
    assert_eq!(read_line(&mut input).unwrap(), None);
}

/// A game of one place that remembers what was asked of it.
struct Told(Vec<String>);

impl Game for Told {
    fn look(&mut self) -> Result<View, PlayError> {
        Ok(view())
    }

    fn act(&mut self, deed: &Deed) -> Result<Vec<Event>, PlayError> {
        self.0.push(format!("{deed:?}"));
        match deed {
            Deed::Take(item) => Ok(vec![Event::Handed(item.clone(), "you".to_owned())]),
            _ => Err(PlayError::Refused("no path leads there".to_owned())),
        }
    }

    fn say(&mut self, person: &str, words: &str) -> Result<Answer, PlayError> {
        self.0.push(format!("{person} hears {words}"));
        Ok(Answer {
            person: person.to_owned(),
            line: "Well, well.".to_owned(),
            action: "nothing".to_owned(),
            events: Vec::new(),
            refused: None,
        })
    }

    fn state(&mut self) -> Result<Snapshot, PlayError> {
        Ok(Snapshot {
            hash: "abc".to_owned(),
            bytes: "00ff".to_owned(),
        })
    }

    fn tally(&mut self) -> Result<Tally, PlayError> {
        Ok(Tally {
            hash: "abc".to_owned(),
            talks: 2,
            violations: 0,
        })
    }
}

fn played(lines: &str, manner: Manner) -> (Vec<String>, String) {
    let mut game = Told(Vec::new());
    let mut output = Vec::new();
    let mut input = Cursor::new(lines.as_bytes());
    play(&mut game, &mut input, &mut output, manner).unwrap();
    (game.0, String::from_utf8(output).unwrap())
}

#[test]
fn a_game_goes_on_after_a_refusal_and_ends_with_its_tally() {
    let lines = "take map\ngo moon\nOdo: hello\nand you?\nquit\ntake map\n";
    let (asked, shown) = played(lines, Manner::default());
    assert_eq!(
        asked,
        [
            "Take(\"map\")",
            "Go(\"moon\")",
            "Odo hears hello",
            "Odo hears and you?"
        ]
    );
    for text in [
        "The mill. Day 1, 7:05",
        "you have the map now",
        "no path",
        "Odo: Well",
        "2 talks",
    ] {
        assert!(shown.contains(text), "{text} is not in {shown}");
    }
}

#[test]
fn in_json_every_line_is_an_object() {
    let manner = Manner {
        json: true,
        echo: true,
    };
    let (_, shown) = played(
        "look\nbag\nhelp\nstate\nOdo: hi\ntake map\ngo moon\n",
        manner,
    );
    for line in shown.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object.is_object(), "{line}");
    }
    assert!(shown.lines().last().unwrap().contains("tally"));
}
