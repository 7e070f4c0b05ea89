//! Lists of Leases: what is said while one is read, and how long it may take.

use std::time::Duration;

use rstest::rstest;
use tokio::time::{Instant, sleep};

use super::{SECOND, cluster_of};

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_was_handed_over_without_an_answer_does_not_run_here_again_while_the_leases_are_listed_anew(
    #[values(700, 900, 1_100)] after_ms: u64,
) {
    let cluster = cluster_of(&["a", "b"], 240, after_ms).await;
    let a = &cluster.pods["a"];
    // The watch is replaced 5 s later, when the handoffs without an answer are made again.
    a.faults.deafen();
    a.faults.slow_lists_down(Duration::from_millis(400));
    sleep(Duration::from_millis(after_ms)).await;
    a.faults.swallow_answers_to_source_writes(100);
    let ownership = a.ownership.clone();
    tokio::spawn(async move { ownership.drain().await });
    for _ in 0..200 {
        sleep(SECOND / 20).await;
        assert_eq!(cluster.resumed("a"), []);
    }
    cluster.until(5 * SECOND, "b runs all", |cluster| cluster.running()["b"] == 240).await;
    cluster.assert_no_living_holder_was_robbed();
}

#[rstest]
#[case::by_little(6)]
#[case::for_as_long_as_a_connection_may_be_silent(39)]
#[tokio::test(start_paused = true)]
async fn a_list_that_takes_longer_than_a_lease_lasts_ends(#[case] seconds: u32) {
    let mut cluster = cluster_of(&["a", "b"], 20, 1).await;
    let b = &cluster.pods["b"].faults;
    b.slow_lists_down(seconds * SECOND);
    b.drop_watches();
    let start = Instant::now();
    cluster.drain("a").await;
    cluster.until(3 * seconds * SECOND + 10 * SECOND, "told of all", |cluster| cluster.running()["b"] == 20).await;
    assert!(start.elapsed() > seconds * SECOND, "it was not told by a list");
}
