//! What a requester makes of the answers of those whom it asks in the middle of a job.

use std::pin::Pin;

use skep_market::{Answer, Ask, MAX_MESSAGE};
use skep_swarm::{Answerer, Channel, SwarmConfig};

use super::super::super::talk::SILENCE;
use super::*;

/// A node that takes every shard for nothing, and has no hardware that it could show.
#[derive(Debug)]
struct Bare(NodeId);

impl Answerer for Bare {
    fn answer(
        &self,
        mut channel: Channel,
    ) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>> {
        let node = *self.0.as_bytes();
        Box::pin(async move {
            let frame = channel.hear(MAX_MESSAGE, SILENCE).await.unwrap();
            let answer = match Ask::decode(&frame).unwrap() {
                Ask::Quote { question, .. } => {
                    let (_, (_, quotation)) = quote(1, 1);
                    let signed = quotation.signed(node, question, &key(1));
                    let signed = signed.unwrap().encode();
                    Answer::Quote { quotation, signed }
                }
                _ => Answer::Refused(Refusal::NoHardware("it has none".to_owned())),
            };
            channel.say(&answer.encode().unwrap()).await.unwrap();
            let _ = channel.finish(SILENCE).await;
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_attested_is_given_nothing_of_a_job_that_is_for_those_who_are() {
    let place = tempfile::tempdir().unwrap();
    let provider = Swarm::open(SwarmConfig::loopback(place.path())).await;
    let provider = provider.unwrap();
    provider.answer_with(Arc::new(Bare(provider.id())));
    for attested in [false, true] {
        let spec = Spec {
            attested,
            providers: vec![provider.ticket().to_string()],
            only: true,
            ..spec(1)
        };
        let mut desk = Desk::with(&spec, Said::new(), &[]);
        let service = Arc::clone(&desk.driver.service);
        let swarm = service.swarm().await.unwrap();
        desk.driver.ask_around(swarm).unwrap();
        let said = desk.driver.tasks.join_next_with_id().await;
        desk.driver.take_in_all(said.unwrap()).unwrap();
        desk.driver.decide().unwrap();
        let given: Vec<AccountId> = desk.open().into_iter().map(|(_, who)| who).collect();
        match attested {
            false => assert_eq!(given, [key(1).id()]),
            true => {
                assert_eq!(given, []);
                let reason = desk.driver.reason().unwrap();
                assert!(reason.contains("it has none"), "{reason}");
            }
        }
        service.shutdown().await;
    }
    provider.shutdown().await;
}
