//! What a benchmark is told on its command line.

use std::fmt::Debug;
use std::str::FromStr;

/// The values of these options, in this order, and nothing for those that are not given. Ends the
/// benchmark over any other.
pub fn options<const COUNT: usize>(names: [&str; COUNT]) -> [Option<String>; COUNT] {
    let mut values = names.map(|_| None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // What cargo says to every benchmark.
        if argument == "--bench" {
            continue;
        }
        let place = names.iter().position(|name| *name == argument);
        let place = place.unwrap_or_else(|| panic!("unknown option {argument}"));
        let value = arguments.next().expect("a value for each option");
        values[place] = Some(value);
    }
    values
}

/// A number that is given, or the usual one.
pub fn number<N>(given: Option<String>, usual: N) -> N
where
    N: FromStr,
    N::Err: Debug,
{
    given.map_or(usual, |given| given.parse().unwrap())
}
