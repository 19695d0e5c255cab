//! A terminal of a test's own, in which `skep` runs, and what is seen on it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use skep_tests::Built;

/// How long nothing new may come: many times what any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    screen: Screen,
}

impl Terminal {
    /// Runs a command in a home, in a terminal of so many rows and columns.
    pub fn run(home: &Path, arguments: &[&str], rows: u16, columns: u16) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&near, size).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let manner = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let far = File::from(rustix::fs::open(name.as_c_str(), manner, Mode::empty()).unwrap());
        let side = || Stdio::from(far.try_clone().unwrap());
        let child = Command::new(Built::skep())
            .arg("--home")
            .arg(home)
            .args(arguments)
            .env("TERM", "xterm")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let mut near = File::from(near);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // When the last who could write has gone, reading fails on some systems.
            while let Ok(read @ 1..) = near.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            output,
            screen: Screen::new(columns.into()),
        }
    }

    /// Whether more came; no more comes when the command has ended.
    fn goes_on(&mut self) -> bool {
        match self.output.recv_timeout(PATIENCE) {
            Ok(bytes) => {
                bytes.into_iter().for_each(|byte| self.screen.put(byte));
                true
            }
            Err(RecvTimeoutError::Disconnected) => false,
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                panic!("nothing for {PATIENCE:?}: {:#?}", self.screen.lines());
            }
        }
    }

    /// Waits until the screen is as it should be at some time; returns it.
    pub fn until(&mut self, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        // It is drawn again and again while it stays as it is, so that silence is no end.
        let begun = std::time::Instant::now();
        loop {
            let lines = self.screen.lines();
            if is_so(&lines) {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE, "it stays at {lines:#?}");
            assert!(self.goes_on(), "it ended at {lines:#?}");
        }
    }

    /// How many lines have been written to so far, wherever the cursor went.
    pub fn height(&self) -> usize {
        self.screen.rows.len()
    }

    /// Waits for the command's end; returns its exit code and what is on the screen then.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        while self.goes_on() {}
        let code = self.child.wait().unwrap().code();
        (code, self.screen.lines())
    }
}

/// What a terminal shows of what is written to it, which is as much of one as progress bars take. It
/// never scrolls: what is above stays where it is.
struct Screen {
    rows: Vec<Vec<char>>,
    columns: usize,
    row: usize,
    column: usize,
    inside: Inside,
}

/// What the last bytes were the beginning of.
enum Inside {
    Text,
    Escape,
    /// A sequence that moves or clears, with its numbers so far.
    Sequence(String),
}

impl Screen {
    fn new(columns: usize) -> Self {
        Self {
            rows: vec![Vec::new()],
            columns,
            row: 0,
            column: 0,
            inside: Inside::Text,
        }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.rows.iter().map(|row| row.iter().collect::<String>());
        lines.map(|line| line.trim_end().to_owned()).collect()
    }

    fn put(&mut self, byte: u8) {
        match std::mem::replace(&mut self.inside, Inside::Text) {
            Inside::Escape if byte == b'[' => self.inside = Inside::Sequence(String::new()),
            Inside::Escape => {}
            Inside::Sequence(numbers) if (0x40..=0x7e).contains(&byte) => self.act(&numbers, byte),
            Inside::Sequence(mut numbers) => {
                numbers.push(char::from(byte));
                self.inside = Inside::Sequence(numbers);
            }
            Inside::Text => match byte {
                0x1b => self.inside = Inside::Escape,
                b'\r' => self.column = 0,
                b'\n' => self.make_room(self.row + 1),
                b' '..=b'~' => self.write(char::from(byte)),
                // One sign for each letter of another alphabet.
                0xc0.. => self.write('?'),
                _ => {}
            },
        }
    }

    fn make_room(&mut self, row: usize) {
        self.row = row;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
    }

    /// A line that is full goes on in the next with the letter that follows.
    fn write(&mut self, letter: char) {
        if self.column == self.columns {
            self.column = 0;
            self.make_room(self.row + 1);
        }
        let row = &mut self.rows[self.row];
        if row.len() <= self.column {
            row.resize(self.column + 1, ' ');
        }
        row[self.column] = letter;
        self.column += 1;
    }

    fn act(&mut self, numbers: &str, what: u8) {
        let number = numbers.parse().ok();
        let count: usize = number.unwrap_or(1).max(1);
        match what {
            b'A' => self.row = self.row.saturating_sub(count),
            b'B' => self.make_room(self.row + count),
            b'C' => self.column = (self.column + count).min(self.columns),
            b'D' => self.column = self.column.saturating_sub(count),
            b'K' if number == Some(2) => self.rows[self.row].clear(),
            b'K' => self.rows[self.row].truncate(self.column),
            b'J' => {
                self.rows[self.row].truncate(self.column);
                self.rows.truncate(self.row + 1);
            }
            // Colours, and whether the cursor is seen.
            b'm' | b'h' | b'l' => {}
            _ => panic!("a sequence that this screen does not know: {numbers}{what}"),
        }
    }
}
