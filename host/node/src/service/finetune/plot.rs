//! Losses as a picture: two curves, two axes, and figures at them.
//!
//! Drawn by hand into pixels (`docs/decisions/0019`), with letters of five by seven pixels for the
//! few words that there are.

use std::io;
use std::path::Path;

use zune_png::PngEncoder;
use zune_png::zune_core::bit_depth::BitDepth;
use zune_png::zune_core::colorspace::ColorSpace;
use zune_png::zune_core::options::EncoderOptions;

use crate::requests::TrainingStep;

const WIDTH: usize = 720;
const HEIGHT: usize = 420;
/// What is left at each side of the curves: left, right, above, below.
const MARGINS: [usize; 4] = [84, 24, 40, 48];
/// Pixels for each of a letter.
const SCALE: usize = 2;

type Colour = [u8; 3];
const PAPER: Colour = [255, 255, 255];
const INK: Colour = [60, 60, 60];
const RULES: Colour = [228, 228, 228];
const TRAINING: Colour = [86, 145, 200];
const HELD_OUT: Colour = [200, 84, 48];

/// A point of a curve: a step and a loss.
type Point = (f64, f64);

/// Draws the losses of a training and writes them as a PNG.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(steps: &[TrainingStep], path: &Path) -> io::Result<()> {
    let points = |of: fn(&TrainingStep) -> Option<f64>| -> Vec<Point> {
        let points = steps
            .iter()
            .filter_map(|step| Some((step.step as f64, of(step)?)));
        points.filter(|(_, loss)| loss.is_finite()).collect()
    };
    let curves = [
        (points(|step| step.loss), TRAINING, "training"),
        (points(|step| step.held_out_loss), HELD_OUT, "held out"),
    ];
    let picture = picture(&curves);
    let options = EncoderOptions::new(WIDTH, HEIGHT, ColorSpace::RGB, BitDepth::Eight);
    let mut file = Vec::new();
    PngEncoder::new(&picture.0, options)
        .encode(&mut file)
        .map_err(|error| io::Error::other(format!("{error:?}")))?;
    std::fs::write(path, file)
}

fn picture(curves: &[(Vec<Point>, Colour, &str)]) -> Picture {
    let all = || curves.iter().flat_map(|(points, ..)| points);
    let last = all().map(|(step, _)| *step).fold(1.0, f64::max);
    let highest = all().map(|(_, loss)| *loss).fold(f64::MIN, f64::max);
    let lowest = all().map(|(_, loss)| *loss).fold(f64::MAX, f64::min);
    // Without a point there is an empty frame.
    let (lowest, highest) = match lowest <= highest {
        true => (lowest, highest),
        false => (0.0, 1.0),
    };
    let spare = (0.05 * (highest - lowest)).max(1e-3);
    let frame = Frame {
        x: (0.0, last),
        y: (lowest - spare, highest + spare),
    };
    let mut picture = Picture(PAPER.repeat(WIDTH * HEIGHT));
    frame.rule(&mut picture);
    let [left, _, above, _] = MARGINS;
    picture.text(left, above - 22, "loss", INK);
    let mut at = left + 120;
    for (points, colour, name) in curves {
        picture.line((at, above - 15), (at + 24, above - 15), *colour);
        picture.text(at + 32, above - 22, name, INK);
        at += 60 + Picture::width(name);
        for pair in points.windows(2) {
            picture.line(frame.place(pair[0]), frame.place(pair[1]), *colour);
        }
        if let [only] = points.as_slice() {
            picture.line(frame.place(*only), frame.place(*only), *colour);
        }
    }
    picture
}

/// What stands for what: steps from left to right, losses from below.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn place(&self, (step, loss): Point) -> (usize, usize) {
        let [left, right, above, below] = MARGINS;
        let share = |at: f64, (from, to): (f64, f64)| ((at - from) / (to - from)).clamp(0.0, 1.0);
        let across = (WIDTH - left - right) as f64 * share(step, self.x);
        let down = (HEIGHT - above - below) as f64 * (1.0 - share(loss, self.y));
        (
            left + across.round() as usize,
            above + down.round() as usize,
        )
    }

    /// Rules with figures, and the axes.
    fn rule(&self, picture: &mut Picture) {
        let (left_end, right_end) = (self.x.0, self.x.1);
        for (loss, figure) in marks(self.y) {
            let (from, to) = (self.place((left_end, loss)), self.place((right_end, loss)));
            picture.line(from, to, RULES);
            let width = Picture::width(&figure);
            picture.text(from.0.saturating_sub(width + 8), from.1 - 6, &figure, INK);
        }
        for (step, figure) in marks(self.x) {
            let at = self.place((step, self.y.0));
            picture.line(at, (at.0, at.1 + 5), INK);
            let half = Picture::width(&figure) / 2;
            picture.text(at.0.saturating_sub(half), at.1 + 12, &figure, INK);
        }
        let (corner, end) = (
            self.place((left_end, self.y.0)),
            self.place((right_end, self.y.0)),
        );
        picture.line(corner, end, INK);
        picture.line(corner, self.place((left_end, self.y.1)), INK);
        picture.text(end.0 - Picture::width("step"), HEIGHT - 18, "step", INK);
    }
}

/// Round numbers within a range, some five of them, as numbers and as figures.
fn marks((from, to): (f64, f64)) -> Vec<(f64, String)> {
    let rough = (to - from) / 5.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let step = steps.into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let first = (from / step).ceil() as i64;
    let all = (first..).map(|number| number as f64 * step);
    all.take_while(|mark| *mark <= to)
        .take(20)
        .map(|mark| (mark, format!("{mark:.digits$}")))
        .collect()
}

/// Rows of pixels from above.
struct Picture(Vec<u8>);

impl Picture {
    fn dot(&mut self, x: usize, y: usize, colour: Colour) {
        if x < WIDTH && y < HEIGHT {
            let at = 3 * (y * WIDTH + x);
            self.0[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// A line of two pixels' width (Bresenham's algorithm).
    fn line(&mut self, from: (usize, usize), to: (usize, usize), colour: Colour) {
        let (mut x, mut y) = (from.0 as i64, from.1 as i64);
        let (end_x, end_y) = (to.0 as i64, to.1 as i64);
        let (across, down) = ((end_x - x).abs(), -(end_y - y).abs());
        let (right, below) = ((end_x - x).signum(), (end_y - y).signum());
        let mut error = across + down;
        loop {
            for (more_x, more_y) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                self.dot((x + more_x) as usize, (y + more_y) as usize, colour);
            }
            if (x, y) == (end_x, end_y) {
                return;
            }
            let twice = 2 * error;
            if twice >= down {
                error += down;
                x += right;
            }
            if twice <= across {
                error += across;
                y += below;
            }
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str, colour: Colour) {
        for (place, letter) in text.chars().enumerate() {
            let left = x + place * 6 * SCALE;
            for (row, bits) in shape(letter).iter().enumerate() {
                for column in (0..5).filter(|column| bits & (16 >> column) != 0) {
                    for (more_x, more_y) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                        let (x, y) = (left + column * SCALE + more_x, y + row * SCALE + more_y);
                        self.dot(x, y, colour);
                    }
                }
            }
        }
    }

    /// Pixels from a text's left to its right.
    fn width(text: &str) -> usize {
        (text.chars().count() * 6).saturating_sub(1) * SCALE
    }
}

/// The seven rows of a letter, five bits each. What no picture needs is a blank.
fn shape(letter: char) -> [u8; 7] {
    match letter {
        '0' => [14, 17, 19, 21, 25, 17, 14],
        '1' => [4, 12, 4, 4, 4, 4, 14],
        '2' => [14, 17, 1, 2, 4, 8, 31],
        '3' => [31, 2, 4, 2, 1, 17, 14],
        '4' => [2, 6, 10, 18, 31, 2, 2],
        '5' => [31, 16, 30, 1, 1, 17, 14],
        '6' => [6, 8, 16, 30, 17, 17, 14],
        '7' => [31, 1, 2, 4, 8, 8, 8],
        '8' => [14, 17, 17, 14, 17, 17, 14],
        '9' => [14, 17, 17, 15, 1, 2, 12],
        '.' => [0, 0, 0, 0, 0, 12, 12],
        '-' => [0, 0, 0, 31, 0, 0, 0],
        'a' => [0, 0, 14, 1, 15, 17, 15],
        'd' => [1, 1, 13, 19, 17, 17, 15],
        'e' => [0, 0, 14, 17, 31, 16, 14],
        'g' => [0, 15, 17, 17, 15, 1, 14],
        'h' => [16, 16, 22, 25, 17, 17, 17],
        'i' => [4, 0, 12, 4, 4, 4, 14],
        'l' => [12, 4, 4, 4, 4, 4, 14],
        'n' => [0, 0, 22, 25, 17, 17, 17],
        'o' => [0, 0, 14, 17, 17, 17, 14],
        'p' => [0, 0, 30, 17, 30, 16, 16],
        'r' => [0, 0, 22, 25, 16, 16, 16],
        's' => [0, 0, 14, 16, 14, 1, 30],
        't' => [8, 8, 28, 8, 8, 9, 6],
        'u' => [0, 0, 17, 17, 17, 19, 13],
        _ => [0; 7],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use zune_png::PngDecoder;
    use zune_png::zune_core::bytestream::ZCursor;

    fn count(picture: &Picture, colour: Colour) -> usize {
        let pixels = picture.0.chunks_exact(3);
        pixels.filter(|pixel| **pixel == colour).count()
    }

    #[test]
    fn a_falling_loss_falls_in_the_picture() {
        let frame = Frame {
            x: (0.0, 10.0),
            y: (1.0, 3.0),
        };
        let (begin, end) = (frame.place((0.0, 3.0)), frame.place((10.0, 1.0)));
        assert_eq!(begin, (MARGINS[0], MARGINS[2]));
        assert_eq!(end, (WIDTH - MARGINS[1], HEIGHT - MARGINS[3]));
        let falling: Vec<Point> = (0..50)
            .map(|n| (f64::from(n), 5.0 / f64::from(n + 1)))
            .collect();
        let drawn = picture(&[
            (falling, TRAINING, "training"),
            (Vec::new(), HELD_OUT, "held out"),
        ]);
        assert!(count(&drawn, TRAINING) > 1000);
        // Only its line in the legend.
        assert!((1..200).contains(&count(&drawn, HELD_OUT)));
    }

    #[test]
    fn marks_are_round_and_few() {
        let figures = |range| -> Vec<String> {
            let marks = marks(range);
            marks.into_iter().map(|(_, figure)| figure).collect()
        };
        assert_eq!(figures((0.0, 10.0)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(figures((2.31, 2.58)), ["2.4", "2.5"]);
        for range in [(0.0, 1.0), (-3.0, 7e5), (1e-4, 2e-4), (5.0, 5.002)] {
            assert!((2..=11).contains(&figures(range).len()), "{range:?}");
        }
    }

    #[test]
    fn whatever_the_steps_are_there_is_a_picture() {
        let folder = tempfile::tempdir().unwrap();
        let step = |loss| TrainingStep {
            step: 3,
            steps: 3,
            loss: Some(loss),
            held_out_loss: None,
            learning_rate: 0.0,
            tokens: 0,
            tokens_per_s: None,
        };
        for steps in [
            vec![],
            vec![step(1.0)],
            vec![step(f64::NAN), step(2.0), step(1e300)],
        ] {
            let path = folder.path().join("loss.png");
            draw(&steps, &path).unwrap();
            let file = std::fs::read(&path).unwrap();
            let mut decoder = PngDecoder::new(ZCursor::new(&file));
            let pixels = decoder.decode_raw().unwrap();
            assert_eq!(decoder.dimensions(), Some((WIDTH, HEIGHT)));
            assert_eq!(pixels.len(), 3 * WIDTH * HEIGHT);
        }
    }
}
