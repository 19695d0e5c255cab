//! `skep finetune`: from the command line to a request.

use crate::cli::{Finetune, Method};
use crate::failure::{Failure, FailureKind};
use crate::requests::{FineTuneRequest, Request, TogetherMethod, TogetherRequest, usual_fragments};
use crate::{absolute, limits_of, model_name, place_of};

/// Steps of each node between two of its contributions to the same weights, if it is not said.
const EVERY: u32 = 50;

/// The request that the command line means.
pub fn request(options: Finetune) -> Result<Request, Failure> {
    let data = absolute(&options.data)?;
    let method = match options.method {
        Method::Diloco => TogetherMethod::Diloco,
        Method::Demo => TogetherMethod::Demo,
        Method::AllReduce => TogetherMethod::AllReduce,
    };
    let has_outer_steps = options.every.is_some()
        || options.fragments.is_some()
        || options.overlap.is_some()
        || options.outer_rate.is_some()
        || options.outer_momentum.is_some();
    if method != TogetherMethod::Diloco && has_outer_steps {
        return Err(Failure::new(
            FailureKind::Usage,
            "--every, --fragments, --overlap, --outer-rate and --outer-momentum say how nodes meet \
             with --method diloco; with the others they meet at every step, so leave them out",
        ));
    }
    let every = options.every.unwrap_or(EVERY);
    let fragments = options.fragments.unwrap_or(usual_fragments(every));
    if u32::from(fragments) > every {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "{fragments} parts of the weights cannot be sent within {every} steps, at most one after \
                 each; say --fragments of no more than the steps of --every"
            ),
        ));
    }
    let between = every / u32::from(fragments.max(1));
    if options.overlap.is_some_and(|overlap| overlap >= between) {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "a part of the weights has to be there before the next one is sent; say an --overlap \
                 of less than the {between} steps in between"
            ),
        ));
    }
    if let Some(enough) = options.at_least.filter(|enough| *enough > options.nodes) {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "{enough} nodes cannot take part of {}; say --at-least no more than --nodes",
                options.nodes
            ),
        ));
    }
    let mut settings: Vec<(String, String)> = Vec::new();
    for setting in &options.settings {
        let (name, value) = setting.split_once('=').ok_or_else(|| {
            Failure::new(
                FailureKind::Usage,
                format!("`{setting}` is no setting; write name=value, such as epochs=2"),
            )
        })?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    if let Some(parent) = &options.from {
        settings.push(("from".to_owned(), parent.clone()));
    }
    Ok(Request::FineTune(Box::new(FineTuneRequest {
        name: options.out.unwrap_or_else(|| model_name(&data)),
        data,
        base: options.base.as_deref().map(place_of).transpose()?,
        recipe: options.recipe.as_deref().map(place_of).transpose()?,
        from: options.from,
        share: options.share,
        fresh: options.fresh,
        key: options.key,
        limits: limits_of(options.limits),
        settings,
        together: (options.nodes > 1).then_some(TogetherRequest {
            nodes: options.nodes,
            at_least: options.at_least,
            providers: options.provider,
            method,
            every,
            fragments: options.fragments,
            overlap: options.overlap,
            outer_rate: options.outer_rate,
            outer_momentum: options.outer_momentum,
            patience: options.patience,
            audit: options.audit,
        }),
    })))
}

/// A failure as it is told of a training: one that was interrupted is not lost.
pub fn told(failure: Failure) -> Failure {
    match failure.message == crate::INTERRUPTED {
        true => Failure::new(
            failure.kind,
            "interrupted; the training keeps a checkpoint, and the same command goes on from it",
        ),
        false => failure,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn asked(words: &[&str]) -> Result<TogetherRequest, String> {
        let command = ["skep", "finetune", "--data", "shop.jsonl", "--nodes", "3"];
        let parsed = Cli::try_parse_from(command.iter().chain(words)).unwrap();
        let Command::Finetune(options) = parsed.command else {
            panic!("another command");
        };
        let request = request(*options).map_err(|failure| {
            assert_eq!(failure.kind, FailureKind::Usage);
            failure.message
        })?;
        let Request::FineTune(request) = request else {
            panic!("another request");
        };
        Ok(request.together.unwrap())
    }

    #[test]
    fn a_part_is_there_before_the_next_one_is_sent() {
        let turns = ["--every", "20", "--fragments", "5", "--overlap"];
        let with = |overlap| [&turns[..], &[overlap]].concat();
        assert_eq!(asked(&with("3")).unwrap().overlap, Some(3));
        let why = asked(&with("4")).unwrap_err();
        assert!(why.contains("less than the 4 steps in between"), "{why}");
    }

    #[test]
    fn there_are_no_more_parts_than_steps() {
        let most = asked(&["--every", "4", "--fragments", "4"]).unwrap();
        assert_eq!((most.every, most.fragments), (4, Some(4)));
        for more in [vec![], vec!["--overlap", "0"]] {
            let mut words = vec!["--every", "4", "--fragments", "5"];
            words.extend(more);
            let why = asked(&words).unwrap_err();
            assert!(why.contains("5 parts"), "{why}");
            assert!(why.contains("within 4 steps"), "{why}");
        }
    }

    #[test]
    fn no_more_nodes_have_to_begin_than_there_are_places_for() {
        assert_eq!(asked(&[]).unwrap().at_least, None);
        let all = asked(&["--at-least", "3"]).unwrap();
        assert_eq!((all.nodes, all.at_least), (3, Some(3)));
        let why = asked(&["--at-least", "4"]).unwrap_err();
        assert!(why.contains("4 nodes cannot take part of 3"), "{why}");
    }
}
