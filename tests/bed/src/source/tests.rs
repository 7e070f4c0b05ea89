use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::access_log::Delivered;

async fn orders(config: SourceConfig) -> FakeSource {
    FakeSource::start("127.0.0.1:0", vec![config], 7, AccessLog::in_memory()).await.unwrap()
}

/// Sends one request and reads until the source closes or the answer is complete.
async fn ask(source: &FakeSource, after: &str) -> String {
    let mut stream = TcpStream::connect(source.address()).await.unwrap();
    let request = format!(
        "GET /orders/events?afterId={after}&limit=10 HTTP/1.1\r\nHost: x\r\nHeadgate-Replica: a_1\r\nHeadgate-Attempt: 0f\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The log, once a request has ended in it.
async fn logged(source: &FakeSource) -> Access {
    let logged = async {
        loop {
            if let Some(access) = source.log().entries().pop() {
                return access;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), logged).await.expect("a request ends in the log")
}

#[tokio::test]
async fn a_page_follows_the_id_and_is_logged_with_who_asked() {
    let source = orders(SourceConfig::new("orders", 100)).await;
    let answer = ask(&source, "20").await;
    assert!(answer.contains("\"id\":21,") && answer.contains("\"id\":30,") && !answer.contains("\"id\":31,"));
    let access = logged(&source).await;
    assert_eq!((access.replica.as_str(), access.attempt.as_str(), access.after), ("a_1", "0f", 20));
    assert_eq!(access.delivered, [Delivered { first: 21, last: 30 }]);
    assert!(access.complete && access.started <= access.parsed && Some(access.parsed) <= access.first_byte);
}

#[tokio::test]
async fn a_guarded_source_answers_401_to_a_request_without_the_header() {
    let (open, closed) = (("Headgate-Attempt", "0f"), ("X-Api-Key", "7f"));
    for (header, status) in [(open, "HTTP/1.1 200"), (closed, "HTTP/1.1 401")] {
        let source = orders(SourceConfig::new("orders", 5).behind_header(header.0, header.1)).await;
        assert!(ask(&source, "").await.starts_with(status), "{header:?}");
    }
}

#[tokio::test]
async fn a_cut_body_is_logged_with_the_events_that_were_really_sent() {
    let source = orders(SourceConfig::new("orders", 100)).await;
    source.script("orders", [Some(Fault::CutBody { share: 0.55 })]);
    let answer = ask(&source, "").await;
    let access = logged(&source).await;
    assert_eq!(access.delivered, [Delivered { first: 1, last: 5 }]);
    assert!(!access.complete && answer.contains("\"id\":5,") && !answer.ends_with(']'));
}

#[tokio::test]
async fn a_closed_source_is_empty_until_it_is_opened() {
    let source = orders(SourceConfig::new("orders", 100).once_opened()).await;
    assert!(ask(&source, "").await.ends_with("[]"));
    assert!(source.open() <= clock::now_us());
    assert!(ask(&source, "").await.contains("\"id\":1,"));
}

#[tokio::test]
async fn scripted_faults_come_first_one_for_each_request() {
    let source = orders(SourceConfig::new("orders", 5)).await;
    let date = Fault::RateLimited { seconds: 3, as_date: true };
    source.script("orders", [Some(Fault::Status(503)), None, Some(date), Some(Fault::Redirect)]);
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(ask(&source, "").await);
    }
    assert!(answers[0].starts_with("HTTP/1.1 503") && answers[1].starts_with("HTTP/1.1 200"));
    assert!(answers[2].contains("retry-after: ") && answers[2].contains("\r\ndate: "));
    assert!(answers[3].starts_with("HTTP/1.1 302") && answers[3].contains("location: /orders/"));
}

#[tokio::test]
async fn a_storm_meets_every_request_until_it_is_over() {
    let source = orders(SourceConfig::new("orders", 5)).await;
    source.weather("orders", Some(Fault::Status(503)));
    assert!(ask(&source, "").await.starts_with("HTTP/1.1 503") && ask(&source, "").await.starts_with("HTTP/1.1 503"));
    source.weather("orders", None);
    assert!(ask(&source, "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_that_is_never_answered_ends_when_the_client_goes() {
    let source = orders(SourceConfig::new("orders", 5)).await;
    source.script("orders", [Some(Fault::NeverAnswers)]);
    assert_eq!(ask(&source, "").await, "");
    let access = logged(&source).await;
    assert!(access.first_byte.is_none() && access.delivered.is_empty() && !access.complete);
}

/// Sends these bytes over one connection, with a pause between them, and ends it.
async fn say(source: &FakeSource, what: &[&str]) {
    let mut stream = TcpStream::connect(source.address()).await.unwrap();
    for part in what {
        stream.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

const REQUEST: &str = "GET /orders/events?limit=10 HTTP/1.1\r\nHeadgate-Replica: a_1\r\n\r\n";

#[tokio::test]
async fn a_request_beside_one_that_is_served_is_logged_with_the_time_at_which_it_came() {
    for fault in [Fault::NeverAnswers, Fault::NoticesLate { ms: 100 }, Fault::Thinks { ms: 60_000 }] {
        let source = orders(SourceConfig::new("orders", 5)).await;
        source.script("orders", [Some(fault.clone())]);
        say(&source, &[REQUEST, REQUEST]).await;
        source.rests(Duration::from_secs(30)).await.unwrap();
        let log = source.log().entries();
        assert_eq!(log.len(), 2, "{fault:?}");
        assert!(log[1].started <= log[0].ended && log[1].replica == "a_1", "{fault:?}");
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_or_asks_for_what_is_not_there_is_logged() {
    let source = orders(SourceConfig::new("orders", 5)).await;
    say(&source, &["GET /orders/events?limit=10 HTTP/1.1\r\nHeadgate-Replica: a_1\r\n"]).await;
    say(&source, &["GET /nothing HTTP/1.1\r\n\r\n"]).await;
    let seen: Vec<_> = source.log().entries().into_iter().map(|it| (it.source, it.status, it.complete)).collect();
    assert_eq!(seen, [("orders".to_owned(), 400, false), ("nothing".to_owned(), 404, false)]);
}

#[tokio::test]
async fn a_source_rests_when_all_it_serves_is_logged() {
    let source = orders(SourceConfig::new("orders", 5)).await;
    source.script("orders", [Some(Fault::NoticesLate { ms: 300 })]);
    let mut stream = TcpStream::connect(source.address()).await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let comes = async {
        while source.served["orders"].serving.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), comes).await.expect("the request comes");
    drop(stream);
    assert!(source.rests(Duration::from_millis(50)).await.is_err());
    source.rests(Duration::from_secs(30)).await.unwrap();
    assert_eq!(source.log().len(), 1);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let flaky = || SourceConfig::new("orders", 5).sometimes(0.5, Fault::Status(500));
    let mut runs = Vec::new();
    for _ in 0..2 {
        let source = orders(flaky()).await;
        for _ in 0..20 {
            ask(&source, "").await;
        }
        runs.push(source.log().entries().iter().map(|access| access.status).collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].contains(&500) && runs[0].contains(&200));
}
