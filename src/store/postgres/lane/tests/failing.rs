use super::*;

#[tokio::test(start_paused = true)]
async fn the_fault_of_one_call_is_not_that_of_the_others() {
    let world = World::new();
    world.took(Asked::of(9, 9)).await;
    let poisoned = |stream| Asked { poison: stream == 3, ..Asked::of(stream, stream) };
    let calls = (0..5).map(|stream| world.asks(poisoned(stream)));
    for (number, call) in (0..).zip(join_all(calls).await) {
        match call.unwrap().0 {
            Ok(answer) => assert_eq!(answer, number),
            Err(error) => assert!(number == 3 && matches!(error, StoreError::Failed { .. }), "{number}: {error:?}"),
        }
    }
    assert_eq!(world.server.sizes(), [1, 5, 1, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_is_not_asked_for_again_alone() {
    let world = World::new();
    world.took(Asked::of(9, 9)).await;
    let poisoned = |stream| Asked { poison: stream == 3, ..Asked::of(stream, stream) };
    let calls: Vec<_> = (0..5).map(|stream| world.asks(poisoned(stream))).collect();
    sleep(WINDOW).await;
    assert_eq!(world.server.sizes(), [1, 5]);
    calls[4].abort();
    let _ = join_all(calls).await;
    assert_eq!(world.server.sizes(), [1, 5, 1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_shared_a_statement_that_failed_waits_no_longer_for_one_of_his_own_than_for_a_shared_one() {
    let mut world = World::new();
    world.server.takes = Some(CONNECT_LIMIT + ROUND_TRIP);
    let poisoned = |stream| Asked { poison: stream == 3, ..Asked::of(stream, stream) };
    // The first goes at once, the others share the next statement.
    let calls: Vec<_> = (0..8).map(|stream| world.asks(poisoned(stream))).collect();
    let answers: Vec<_> = join_all(calls).await.into_iter().map(|call| call.unwrap().0).collect();
    let not_begun = answers.iter().filter(|answer| matches!(answer, Err(StoreError::NotBegun { .. }))).count();
    assert_eq!(not_begun, 7 - AT_ONCE, "{answers:?}");
    assert_eq!(world.server.sizes(), [1, 7, 1, 1, 1, 1], "what was not begun is in no statement");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_is_the_trouble_of_one_caller_and_nothing_is_done_twice() {
    let world = World::new();
    world.asks(Asked::of(0, 0));
    let calls = (1..=3).map(|number| world.asks(Asked { readable: number != 2, ..Asked::of(number, number) }));
    for (number, call) in (1..).zip(join_all(calls.collect::<Vec<_>>()).await) {
        assert_eq!(call.unwrap().0.ok(), (number != 2).then_some(number));
    }
    assert_eq!(world.server.sizes(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_told_to_all_with_its_cause_and_not_asked_again() {
    let mut world = World::new();
    world.server.down = true;
    let calls = (0..5).map(|stream| world.asks(Asked::of(stream, stream)));
    for call in join_all(calls).await {
        let error = call.unwrap().0.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { action: "ask", .. }), "{error:?}");
        assert_eq!(error.source().unwrap().to_string(), "down");
    }
    assert_eq!(world.server.sizes(), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lets_nobody_in_is_not_asked_again_for_each() {
    let mut world = World::new();
    world.server.refuses_logins = true;
    let calls = (0..5).map(|stream| world.asks(Asked::of(stream, stream)));
    for call in join_all(calls).await {
        let error = call.unwrap().0.unwrap_err();
        assert!(matches!(&error, StoreError::Failed { sqlstate, .. } if sqlstate == "28P01"), "{error:?}");
        assert_eq!(error.source().unwrap().to_string(), "password");
    }
    assert_eq!(world.server.sizes(), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_nobody_with_it() {
    let world = World::new();
    world.took(Asked::of(9, 9)).await;
    // The one whose timer would have issued the statement, and the one that is with it under way.
    let mut calls: Vec<_> = (0..4).map(|stream| world.asks(Asked::of(stream, stream))).collect();
    tokio::task::yield_now().await;
    calls.remove(0).abort();
    // The next one is under way by now, and not yet answered.
    sleep(2 * ROUND_TRIP).await;
    assert_eq!(world.server.sizes(), [1, 3], "who has gone before is not asked for");
    calls.remove(0).abort();
    for (number, call) in (2..).zip(calls) {
        assert_eq!(call.await.unwrap().0.unwrap(), number);
    }
}
