//! What the reader makes of good, bad and arbitrary input.

use std::io::{self, BufReader, Read};

use proptest::prelude::*;

use super::*;

/// What a reader gives, as text: `3 id=text` for a record, `3 ! error` for an error.
fn shown(input: impl AsRef<[u8]>, format: Format, max: usize) -> Vec<String> {
    Reader::new(input.as_ref(), format)
        .max_record_bytes(max)
        .with_labels()
        .map(|line| match line.result {
            Ok(Record {
                id,
                text,
                label: None,
            }) => format!("{} {id}={text}", line.number),
            Ok(Record {
                id,
                text,
                label: Some(label),
            }) => format!("{} {id}={text}#{label}", line.number),
            Err(error) => format!("{} ! {error}", line.number),
        })
        .collect()
}

fn jsonl(input: impl AsRef<[u8]>) -> Vec<String> {
    shown(input, Format::Jsonl, 1000)
}

fn csv(input: impl AsRef<[u8]>) -> Vec<String> {
    shown(input, Format::Csv, 1000)
}

#[test]
fn formats_are_guessed_from_names_and_read_from_words() {
    assert_eq!(Format::guess(Path::new("a/b.jsonl")), Some(Format::Jsonl));
    assert_eq!(Format::guess(Path::new("b.NDJSON")), Some(Format::Jsonl));
    assert_eq!(Format::guess(Path::new("b.csv")), Some(Format::Csv));
    assert_eq!(Format::guess(Path::new("csv")), None);
    assert_eq!("csv".parse(), Ok(Format::Csv));
    insta::assert_snapshot!("xlsx".parse::<Format>().unwrap_err(), @"`xlsx` is not a format of records; write `jsonl` or `csv`");
}

#[test]
fn json_lines_are_read_one_by_one() {
    let input = "\u{feff}{\"id\":\"a\",\"text\":\"x\",\"label\":\"l\"}\r\n\n  \r\n{\"text\":\"y\"}\nnonsense\n{\"id\":3,\"text\":\"z\"}";
    assert_eq!(
        jsonl(input),
        [
            "1 a=x#l",
            "4 4=y",
            "5 ! this is not a JSON object (column 2): expected ident",
            "6 3=z"
        ]
    );
}

#[test]
fn a_bad_byte_costs_one_line() {
    assert_eq!(
        jsonl(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n\xff\xfe\n{\"text\":\"b\"}\n"),
        [
            "1 1=a",
            "2 ! the text is not UTF-8; convert the file, for example with `iconv -t UTF-8`",
            "3 ! the text is not UTF-8; convert the file, for example with `iconv -t UTF-8`",
            "4 4=b",
        ]
    );
}

#[test]
fn a_long_line_is_skipped_without_being_kept() {
    let fits = format!("{{\"text\":\"{}\"}}", "a".repeat(9));
    let input = format!("{fits}\n{fits}x\n{}\n{fits}\r\n{fits}", "b".repeat(10_000));
    let lines = shown(&input, Format::Jsonl, fits.len());
    assert_eq!(lines.len(), 5);
    assert_eq!((&lines[0][..4], &lines[4][..4]), ("1 1=", "5 5="));
    for line in &lines[1..4] {
        // The fourth has one byte too many as well: its carriage return.
        assert!(
            line.ends_with(
                "! the line is longer than 20 bytes; shorten it, or cut it into several"
            ),
            "{line}"
        );
    }
}

#[test]
fn a_table_is_read_by_the_names_of_its_columns() {
    assert_eq!(
        csv(
            "\u{feff}Label, ID ,other,text\r\nl,a,,\"x, \"\"y\"\"\nz\"\r\n\r\n,b,1,5\" nail\r\n,,,last"
        ),
        ["2 a=x, \"y\"\nz#l", "5 b=5\" nail", "6 6=last"]
    );
    assert_eq!(csv("text\na\n\nb\n\"\"\n"), ["2 2=a", "4 4=b", "5 5="]);
}

#[test]
fn a_table_without_a_text_is_no_table() {
    assert_eq!(
        csv("id,txt\n1,2\n"),
        ["1 ! the first line has to name the columns, one of them `text`, and it names: id, txt"]
    );
    assert_eq!(
        csv("text,Text\n1,2\n"),
        [
            "1 ! the first line has to name the columns, one of them `text`, and it names `text` twice"
        ]
    );
    assert_eq!(
        csv("\"text\n1\n"),
        [
            "1 ! the first line has to name the columns, one of them `text`, and it cannot be read: a quote is opened here and never closed, or not within 1000 bytes"
        ]
    );
    assert!(csv("").is_empty());
}

#[test]
fn a_row_of_another_width_costs_itself() {
    assert_eq!(
        csv("id,text\n1,a\n2\n3,b,c\n4,d\n"),
        [
            "2 1=a",
            "3 ! there are 1 columns here, and the first line names 2",
            "4 ! there are 3 columns here, and the first line names 2",
            "5 4=d",
        ]
    );
}

#[test]
fn a_stray_quote_costs_its_own_line_only() {
    let never_closed = "id,text\n1,a\n2,\"b\n3,c\n\n4,d\n";
    assert_eq!(
        csv(never_closed),
        [
            "2 1=a",
            "3 ! a quote is opened here and never closed, or not within 1000 bytes",
            "4 3=c",
            "6 4=d"
        ]
    );
    let closed_by_another = "id,text\n2,\"b\n3,c\n4,\"d\"\n5,e\n";
    assert_eq!(
        csv(closed_by_another),
        [
            "2 ! a quoted column goes on after its closing quote; write a quote within a column as two quotes",
            "3 3=c",
            "4 4=d",
            "5 5=e",
        ]
    );
    let too_far = format!("id,text\n2,\"b\n3,c\n{}\n4,d\n", "x".repeat(2000));
    assert_eq!(
        csv(too_far),
        [
            "2 ! a quote is opened here and never closed, or not within 1000 bytes",
            "3 3=c",
            "4 ! the line is longer than 1000 bytes; shorten it, or cut it into several",
            "5 4=d",
        ]
    );
    let many = format!("id,text\n2,\"b\n{}", "3,c\n".repeat(1000));
    let lines = csv(many);
    assert_eq!(lines.len(), 1001);
    assert!(lines[1..].iter().all(|line| line.ends_with(" 3=c")));
}

/// A file in which every line opens a quote that no line closes would be quadratic to search.
#[test]
fn every_byte_is_looked_at_twice_at_most() {
    let line = "a\",b,\"c\n";
    let input = format!("text,x,y\n{}", line.repeat(200_000));
    let lines = Reader::new(input.as_bytes(), Format::Csv).count();
    assert_eq!(lines, 200_000);
}

#[test]
fn an_input_that_fails_ends() {
    struct Failing(bool);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("the disk is gone"));
            }
            let text = b"{\"text\":\"a\"}\n{\"text\"";
            buffer[..text.len()].copy_from_slice(text);
            Ok(text.len())
        }
    }
    let mut reader = Reader::new(BufReader::new(Failing(false)), Format::Jsonl);
    assert_eq!(reader.next().unwrap().number, 1);
    let failed = reader.next().unwrap();
    assert_eq!(failed.number, 2);
    let error = failed.result.unwrap_err();
    assert!(error.is_fatal());
    insta::assert_snapshot!(error, @"the input could not be read: the disk is gone");
    assert!(reader.next().is_none());
}

#[test]
fn the_position_comes_to_the_size_of_the_input() {
    let input = format!("{{\"text\":\"a\"}}\n{}\nx\n", "y".repeat(5000));
    let mut reader = Reader::new(input.as_bytes(), Format::Jsonl).max_record_bytes(100);
    reader.next().unwrap();
    assert_eq!(reader.position(), 13);
    reader.by_ref().for_each(drop);
    assert_eq!(reader.position(), input.len() as u64);
}

/// Bytes that resemble an input more than noise does.
fn any_input() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b",".to_vec()),
        Just(b"text,id\n".to_vec()),
        Just(b"{\"text\":\"a\"}\n".to_vec()),
        Just(b"{\"id\":".to_vec()),
        Just("\u{feff}".as_bytes().to_vec()),
        Just(vec![b'x'; 70]),
        proptest::collection::vec(any::<u8>(), 1..5),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_their_end(input in any_input(), csv in any::<bool>(), max in 1_usize..100) {
        let format = if csv { Format::Csv } else { Format::Jsonl };
        let newlines = input.iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut reader = Reader::new(&input[..], format).max_record_bytes(max).with_labels();
        let mut last = 0;
        let mut fatal = false;
        for line in reader.by_ref() {
            prop_assert!(!fatal, "something follows a fatal error");
            prop_assert!(line.number > last && line.number <= newlines + 1);
            last = line.number;
            fatal = line.result.is_err_and(|error| error.is_fatal());
        }
        prop_assert!(reader.next().is_none());
        prop_assert!(fatal || reader.position() == input.len() as u64);
    }

    /// Good lines are found whatever stands between them, as long as it keeps to its lines.
    #[test]
    fn good_lines_amid_bad_ones_are_all_found(
        lines in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..30)), 0..30),
    ) {
        let mut input = Vec::new();
        let mut good = Vec::new();
        for (number, (is_good, bad)) in (1_u64..).zip(&lines) {
            if *is_good {
                good.push(number);
                input.extend(format!("{{\"id\":\"good {number}\",\"text\":\"t\"}}").bytes());
            } else {
                input.extend(bad.iter().filter(|byte| **byte != b'\n'));
            }
            input.push(b'\n');
        }
        let found: Vec<_> = Reader::new(&input[..], Format::Jsonl)
            .filter_map(|line| line.result.ok().filter(|record| record.id == format!("good {}", line.number)).map(|_| line.number))
            .collect();
        prop_assert_eq!(found, good);
    }

    /// The same for tables: a stray quote, a bad byte or a wrong width costs its own line.
    #[test]
    fn good_rows_amid_bad_ones_are_all_found(
        rows in proptest::collection::vec(proptest::option::of("[a,\"é ]{1,12}"), 0..30), bad_byte in any::<bool>(),
    ) {
        let mut input = b"id,text\n".to_vec();
        let mut good = Vec::new();
        for (number, row) in (2_u64..).zip(&rows) {
            match row {
                None => {
                    good.push(number);
                    input.extend(format!("good {number},t").bytes());
                }
                Some(bad) => {
                    input.extend(bad.bytes());
                    input.extend(bad_byte.then_some(0xff));
                }
            }
            input.push(b'\n');
        }
        // A quoted column may take whole lines in, when what closes it comes out as a row. Those
        // rows cannot be told from what their author meant; all others have to be found.
        let mut taken = Vec::new();
        let mut found = Vec::new();
        for line in Reader::new(&input[..], Format::Csv) {
            if let Ok(record) = line.result {
                let inside = [&record.id, &record.text].map(|text| text.matches('\n').count() as u64).iter().sum::<u64>();
                taken.extend(line.number + 1..=line.number + inside);
                if record.id == format!("good {}", line.number) {
                    found.push(line.number);
                }
            }
        }
        good.retain(|number| !taken.contains(number));
        prop_assert_eq!(found, good);
    }

    /// What the csv crate writes is read as what it was, and alike by the csv crate.
    #[test]
    fn tables_are_read_as_others_read_them(rows in proptest::collection::vec(("[a-z,\" \r\n]{1,9}", "[a-zé,\"\r\n]{0,9}"), 0..12)) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["id", "text"]).unwrap();
        for (id, text) in &rows {
            writer.write_record([id, text]).unwrap();
        }
        let input = writer.into_inner().unwrap();
        let ours: Vec<_> = Reader::new(&input[..], Format::Csv)
            .map(|line| line.result.map(|record| (record.id, record.text)).unwrap())
            .collect();
        let theirs: Vec<(String, String)> = ::csv::Reader::from_reader(&input[..]).deserialize().map(Result::unwrap).collect();
        prop_assert_eq!(&ours, &rows);
        prop_assert_eq!(ours, theirs);
    }
}

#[test]
fn a_part_of_an_input_keeps_the_lines_of_the_whole() {
    let whole = "{\"text\": \"a\"}\n\nnonsense\n{\"text\": \"b\"}\n{\"id\": 7, \"text\": \"c\"}\n";
    let shown = |line: &Line| (line.number, line.result.as_ref().ok().map(|r| r.id.clone()));
    let all: Vec<_> = Reader::new(whole.as_bytes(), Format::Jsonl).collect();
    for cut in 0..=5_usize {
        let offset: usize = whole.split_inclusive('\n').take(cut).map(str::len).sum();
        let (first, rest) = whole.split_at(offset);
        let rest = Reader::new(rest.as_bytes(), Format::Jsonl).starting_at(cut as u64 + 1);
        let parts = Reader::new(first.as_bytes(), Format::Jsonl).chain(rest);
        let parts: Vec<_> = parts.map(|line| shown(&line)).collect();
        assert_eq!(
            parts,
            all.iter().map(shown).collect::<Vec<_>>(),
            "cut after {cut}"
        );
    }
}
