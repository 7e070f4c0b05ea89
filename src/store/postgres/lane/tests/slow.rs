use super::*;

#[tokio::test(start_paused = true)]
async fn a_statement_that_hangs_holds_the_others_up_for_a_moment_only() {
    let world = World::hanging(1);
    let hangs = world.asks(Asked::of(1, 1));
    sleep(WINDOW).await;
    assert_eq!(WINDOW + world.took(Asked::of(2, 2)).await, LATE + ROUND_TRIP);
    // By now nobody waits behind it.
    sleep(PATIENCE).await;
    assert_eq!(world.took(Asked::of(3, 3)).await, ROUND_TRIP);
    hangs.abort();
}

#[tokio::test(start_paused = true)]
async fn when_all_statements_hang_the_calls_wait_and_go_on_with_the_first_that_ends() {
    let world = World::hanging(LIMITS.statements);
    for stream in 0..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let waits = world.asks(Asked::of(9, 9));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.server.sizes().len(), LIMITS.statements);
    assert!(!waits.is_finished());
    world.lane.queue().ended(1);
    sleep(LATE + ROUND_TRIP).await;
    assert_eq!(waits.await.unwrap().0.unwrap(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_statement_takes_is_told_so_as_soon_as_one_that_finds_no_connection() {
    let world = World::hanging(LIMITS.statements);
    for stream in 0..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let (answer, took) = world.asks(Asked::of(9, 9)).await.unwrap();
    assert!(matches!(answer, Err(StoreError::NotBegun { .. })) && took == CONNECT_LIMIT, "{answer:?} after {took:?}");
    // Nothing is left behind that a statement could still take.
    world.lane.queue().ended(1);
    sleep(LATELY).await;
    assert_eq!(world.took(Asked::of(10, 10)).await, ROUND_TRIP);
    assert_eq!(world.server.sizes(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_goes_into_no_statement_and_what_a_statement_has_is_not_taken_back() {
    let mut queue = Queue::new(LIMITS);
    let places = [1, 2, 3].map(|number| queue.enter(Asked::of(number, number), (), Instant::now()));
    assert!(queue.withdraw(places[1]));
    let Next::Issue(batch) = queue.next(Instant::now(), |()| false) else { panic!("nothing holds it up") };
    assert_eq!(batch.requests.iter().map(|asked| asked.number).collect::<Vec<_>>(), [1, 3]);
    assert!(places.into_iter().all(|place| !queue.withdraw(place)));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_in_a_statement_or_is_told_that_it_never_was() {
    let (mut answered, mut not_begun) = (0, 0);
    for seed in 0..50 {
        let slow = Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))));
        let world = World { server: Server { slow, ..Server::default() }, ..World::new() };
        let mut rng = StdRng::seed_from_u64(seed);
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let (world, enters) = (world.clone(), halves(&mut rng, Duration::from_secs(6)));
                tokio::spawn(async move {
                    sleep(enters).await;
                    world.asks(Asked::of(number, number)).await.unwrap().0
                })
            })
            .collect();
        let answers = join_all(calls).await;
        world.took(Asked::of(100, 100)).await;
        let statements = world.server.statements();
        for (number, answer) in (0..).zip(answers) {
            let times = statements.iter().flatten().filter(|asked| asked.number == number).count();
            match answer.unwrap() {
                Ok(answer) => assert_eq!((answer, times), (number, 1), "seed {seed}"),
                Err(StoreError::NotBegun { .. }) => assert_eq!(times, 0, "seed {seed}: call {number}"),
                Err(error) => panic!("{error:?}"),
            }
            *if times == 0 { &mut not_begun } else { &mut answered } += 1;
        }
    }
    assert!(answered > 100 && not_begun > 100, "{answered} answered, {not_begun} not begun");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_found_every_statement_under_way_goes_when_the_window_after_the_first_that_ends_is_over() {
    let world = World::hanging(LIMITS.statements - 1);
    for stream in 1..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    let last = world.asks(Asked::of(8, 8));
    let entered_after = Duration::from_millis(1);
    sleep(entered_after).await;
    assert_eq!(entered_after + world.took(Asked::of(9, 9)).await, WINDOW + ROUND_TRIP);
    assert_eq!(last.await.unwrap().0.unwrap(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_go_does_not_wait_for_the_patience_of_one_that_stands_before_it() {
    let world = World::hanging(LIMITS.statements - 1);
    for stream in 1..LIMITS.statements as u64 {
        world.asks(Asked::of(stream, stream));
        sleep(LATE + WINDOW).await;
    }
    world.asks(Asked::of(8, 8));
    let patient = world.asks(Asked::of(7, 7).patient());
    let entered_after = Duration::from_millis(1);
    sleep(entered_after).await;
    assert_eq!(entered_after + world.took(Asked::of(9, 9)).await, WINDOW + ROUND_TRIP);
    assert_eq!(patient.await.unwrap().0.unwrap(), 7);
}
