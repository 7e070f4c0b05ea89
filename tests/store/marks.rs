//! Resets of a stream of opaque ids: whatever epochs it has been through, a reader stores nothing twice, misses nothing and
//! gets to the end of its feed.

use std::{collections::BTreeSet, sync::Arc};

use headgate::{
    event::{Cursor, EventId, SetAside, SetAsideReason},
    store::{Append, Appended, EventStore, Forget, Gate},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    database::Database,
    replica::{Replica, after, applied, events},
};

/// Random ones of each kind.
const HISTORIES: u64 = 40;

/// Reads the feed x1, x2, … of a source that knows every id of it, page by page as the loader does.
struct Reader<'a> {
    database: &'a Database,
    replica: Replica,
    feed: Vec<String>,
}

/// What one page came to.
#[derive(Debug, PartialEq, Eq)]
enum Page {
    Took(Appended),
    /// Taken for that of a source which does not know the cursor and begins anew.
    Rejected(Vec<String>),
    /// Nothing comes after the cursor.
    End,
}

impl<'a> Reader<'a> {
    async fn of(database: &'a Database, name: &str, last: usize) -> Self {
        let replica = Replica::adopting(&database.store(), "a", name).await;
        Self { database, replica, feed: (1..=last).map(|n| format!("x{n}")).collect() }
    }

    async fn reset(&mut self, start: Cursor) {
        let reset = self.replica.resetting_to(self.replica.epoch.0 + 1, start);
        let adopted = applied(self.replica.store.reset(reset).await.unwrap());
        (self.replica.fence, self.replica.epoch, self.replica.cursor) = (adopted.fence, adopted.epoch, adopted.cursor);
    }

    fn next(&self, limit: usize) -> Vec<String> {
        let place = self.replica.cursor.id().map_or(0, |cursor| {
            1 + self.feed.iter().position(|id| id == cursor.as_str()).expect("the source knows each cursor")
        });
        self.feed[place..].iter().take(limit).cloned().collect()
    }

    async fn stored_among(&self, page: &[String]) -> BTreeSet<String> {
        if self.replica.cursor == Cursor::Start {
            return BTreeSet::new();
        }
        let ids: Vec<_> = page.iter().map(|id| EventId::new(id).unwrap()).collect();
        let found =
            self.replica.store.find_stored(&self.replica.stream, &ids.iter().collect::<Vec<_>>()).await.unwrap();
        found.iter().map(|id| id.as_str().to_owned()).collect()
    }

    async fn page(&mut self, limit: usize) -> Page {
        let page = self.next(limit);
        if page.is_empty() {
            return Page::End;
        }
        let stored = self.stored_among(&page).await;
        if page.iter().take(2).all(|id| stored.contains(id)) {
            return Page::Rejected(page);
        }
        let fresh = page.iter().rfind(|id| !stored.contains(*id)).expect("one of the first two");
        self.replica.reserve().await;
        let append = self.replica.closing(events(&page));
        let append = Append { cursor_after: after(fresh), looks_up: !stored.is_empty(), ..append };
        Page::Took(self.replica.append(&append).await)
    }

    /// Reads to the end of the feed.
    async fn finish(&mut self, limit: usize) {
        for _ in 0..=self.feed.len() {
            match self.page(limit).await {
                Page::Took(_) => {}
                Page::End => return,
                Page::Rejected(page) => panic!("stuck at {} before {page:?}", self.replica.cursor),
            }
        }
        panic!("it goes round in circles at {}", self.replica.cursor);
    }

    /// In the order of the feed.
    async fn stored(&self) -> Vec<String> {
        let mut stored: Vec<String> = self.ask("SELECT id FROM headgate.events WHERE stream = $1").await;
        stored.sort_by_key(|id| self.feed.iter().position(|known| known == id));
        stored
    }

    async fn is_read_again(&self) -> bool {
        self.ask("SELECT reread_to IS NOT NULL FROM headgate.source WHERE stream = $1").await[0]
    }

    /// The same epoch after epoch, begun behind each of these events and in pages of two.
    async fn ends_after_any_reset(&mut self) {
        for start in self.feed.clone() {
            self.reset(after(&start)).await;
            self.finish(2).await;
        }
        self.ends_after_a_reset().await;
    }

    /// Begun with the first event, every event is stored once, and all that was stored has come by.
    async fn ends_after_a_reset(&mut self) {
        self.reset(Cursor::Start).await;
        self.finish(4).await;
        assert_eq!(self.stored().await, self.feed);
        assert!(!self.is_read_again().await, "all that was stored came by");
    }

    async fn ask<T>(&self, sql: &'static str) -> Vec<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let stream = self.replica.stream.as_str();
        sqlx::query_scalar(sql).bind(stream).fetch_all(&self.database.sql).await.expect(sql)
    }
}

/// A replica of the release before several marks were kept, as far as it writes them.
struct Older;

impl Older {
    /// Its RESET, word for word where it writes marks.
    const RESET: &str = "
        UPDATE headgate.source AS g
        SET
            fence = g.fence + 1,
            epoch = g.epoch + 1,
            cursor = $2,
            id_kind = NULL,
            progressive = true,
            id_path_epoch = g.epoch + 1,
            reread_to = coalesce(m.numbers_to, m.opaque_to),
            reread_other = CASE WHEN m.numbers_to IS NOT NULL THEN m.opaque_to END
        FROM (
            SELECT
                stream,
                headgate.first_of_kind(ARRAY[reread_to, reread_other, cursor], true) AS numbers_to,
                nullif(headgate.first_of_kind(ARRAY[reread_to, reread_other, cursor], false), $2) AS opaque_to
            FROM headgate.source
            WHERE highest_sequence IS NOT NULL
        ) AS m
        WHERE g.stream = $1 AND m.stream = g.stream";

    /// What it leaves of the marks ($3, $4) when a page ($2) was appended.
    const APPENDED: &str = "
        UPDATE headgate.source
        SET reread_to = CASE WHEN $3 = ANY ($2) THEN NULL ELSE $3 END, reread_covers = $4
        WHERE stream = $1";

    async fn reset(reader: &mut Reader<'_>, start: Cursor) {
        let statement = sqlx::query(Self::RESET).bind(reader.replica.stream.as_str());
        let start_id = start.id().map(|id| id.as_str().to_owned());
        let done = statement.bind(start_id).execute(&reader.database.sql).await.unwrap();
        if done.rows_affected() == 1 {
            reader.replica.fence.0 += 1;
            reader.replica.epoch.0 += 1;
            reader.replica.cursor = start;
        }
    }

    async fn page(reader: &mut Reader<'_>, limit: usize) -> Page {
        let ids = reader.next(limit);
        let mark: Option<String> =
            reader.ask("SELECT reread_to FROM headgate.source WHERE stream = $1").await.swap_remove(0);
        let covers: Option<i64> =
            reader.ask("SELECT reread_covers FROM headgate.source WHERE stream = $1").await.swap_remove(0);
        let page = reader.page(limit).await;
        if matches!(page, Page::Took(_)) {
            let statement = sqlx::query(Self::APPENDED).bind(reader.replica.stream.as_str());
            statement.bind(ids).bind(mark).bind(covers).execute(&reader.database.sql).await.unwrap();
        }
        page
    }
}

/// x1 to x3, and after a skip x6 to x9: the mark of the first reset never came by.
async fn with_a_gap<'a>(database: &'a Database, name: &str) -> Reader<'a> {
    let mut reader = Reader::of(database, name, 9).await;
    reader.page(3).await;
    reader.reset(after("x5")).await;
    reader.page(4).await;
    assert_eq!((reader.replica.cursor.clone(), reader.stored().await.len()), (after("x9"), 7));
    reader
}

#[tokio::test]
async fn a_second_reset_after_a_skip_does_not_get_the_stream_stuck() {
    let database = Database::migrated().await;
    for limit in 1..=9 {
        let mut reader = with_a_gap(&database, &format!("by-{limit}")).await;
        reader.reset(Cursor::Start).await;
        reader.finish(limit).await;
        assert_eq!(reader.stored().await, reader.feed, "in pages of {limit}");
        assert!(!reader.is_read_again().await, "all that was stored came by");
    }
}

#[tokio::test]
async fn a_second_reset_to_where_the_first_epoch_ended_does_not_get_the_stream_stuck() {
    let database = Database::migrated().await;
    for limit in 1..=6 {
        let mut reader = with_a_gap(&database, &format!("by-{limit}")).await;
        reader.reset(after("x3")).await;
        reader.finish(limit).await;
        assert_eq!(reader.stored().await, reader.feed, "in pages of {limit}");
        assert!(!reader.is_read_again().await, "all that was stored came by");
    }
}

#[tokio::test]
async fn a_deletion_that_is_interrupted_after_a_skip_does_not_get_the_stream_stuck() {
    let database = Database::migrated().await;
    let mut reader = with_a_gap(&database, "orders").await;
    // The second step cannot run.
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE headgate.event IN EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let forget = Forget { stream: reader.replica.stream.clone(), uid: reader.replica.uid.clone() };
    reader.replica.store.forget(forget).await.unwrap_err();
    blocker.rollback().await.unwrap();

    reader.replica.uid = "uid-2".to_owned();
    assert_eq!(reader.replica.adopt().await.cursor, Cursor::Start);
    reader.finish(4).await;
    assert_eq!(reader.stored().await, reader.feed);
    assert!(!reader.is_read_again().await, "all that was stored came by");
}

#[tokio::test]
async fn a_reset_that_is_taken_back_or_names_an_unknown_start_leaves_no_mark() {
    let database = Database::migrated().await;
    for (name, mistake, read) in [("begun", Cursor::Start, 4), ("not-begun", Cursor::Start, 0), ("typo", after("z"), 0)]
    {
        let mut reader = Reader::of(&database, name, 9).await;
        reader.page(9).await;
        reader.reset(mistake).await;
        if read > 0 {
            reader.page(read).await;
        }
        reader.reset(after("x9")).await;
        assert!(!reader.is_read_again().await, "{name}");
        reader.ends_after_a_reset().await;
    }
}

#[tokio::test]
async fn a_mark_that_was_passed_or_started_at_is_replaced_by_the_cursor_also_where_nothing_was_stored() {
    let database = Database::migrated().await;
    for (name, start, pages) in [("started-at", "x9", 0), ("passed", "x5", 1), ("passed-late", "x8", 1)] {
        let mut reader = with_a_gap(&database, name).await;
        reader.reset(after(start)).await;
        for _ in 0..pages {
            reader.page(4).await;
        }
        assert_eq!((reader.replica.cursor.clone(), reader.stored().await.len()), (after("x9"), 7), "{name}");
        reader.ends_after_a_reset().await;
    }
}

#[tokio::test]
async fn a_page_of_items_set_aside_beyond_the_marks_leaves_one_of_its_own() {
    let database = Database::migrated().await;
    let mut reader = Reader::of(&database, "orders", 9).await;
    reader.page(3).await;
    reader.reset(after("x5")).await;
    let aside = |id: &str| SetAside {
        id: EventId::new(id).unwrap(),
        reason: SetAsideReason::NestedTooDeep,
        item: Box::from(*b"[]"),
    };
    reader.replica.reserve().await;
    let page = reader.replica.closing(vec![]);
    let page = Append { set_aside: Arc::new([aside("x6"), aside("x7")]), cursor_after: after("x7"), ..page };
    reader.replica.append(&page).await;

    reader.reset(Cursor::Start).await;
    assert!(matches!(reader.page(5).await, Page::Took(_)));
    assert!(reader.stored_among(&reader.next(2)).await.is_empty(), "x6 and x7 come again");
    reader.replica.reserve().await;
    let page = Append { cursor_before: after("x5"), ..page };
    let page = Append { attempt: reader.replica.attempt, part: reader.replica.part, ..page };
    reader.replica.append(&page).await;
    assert!(!reader.is_read_again().await, "all that was stored or set aside came by");
}

#[tokio::test]
async fn a_reset_in_the_middle_of_reading_again_keeps_what_was_stored_in_between() {
    let database = Database::migrated().await;
    for (name, start) in [("first", Cursor::Start), ("mark", after("x3")), ("cursor", after("x5"))] {
        let mut reader = with_a_gap(&database, name).await;
        reader.reset(Cursor::Start).await;
        reader.page(5).await;
        reader.reset(start).await;
        reader.finish(2).await;
        reader.ends_after_any_reset().await;
    }
}

#[tokio::test]
async fn a_stream_with_more_marks_than_are_kept_is_read_again_for_good_and_does_not_get_stuck() {
    let database = Database::migrated().await;
    for (skips, ends) in [(16, true), (17, false)] {
        let mut reader = Reader::of(&database, &format!("skips-{skips}"), 40).await;
        // x1, x3, x5, …: none of the marks comes by.
        for skip in 1..=skips {
            reader.page(1).await;
            reader.reset(after(&format!("x{}", 2 * skip))).await;
        }
        // The cursor is the last one.
        reader.reset(Cursor::Start).await;
        reader.finish(3).await;
        assert_eq!(reader.is_read_again().await, !ends, "{skips} skips");
        for start in [after("x7"), after("x40"), Cursor::Start] {
            reader.reset(start).await;
            reader.finish(3).await;
        }
        assert_eq!(reader.stored().await, reader.feed);
        let longest: Vec<i32> =
            reader.ask("SELECT coalesce(length(reread_to), 0) FROM headgate.source WHERE stream = $1").await;
        assert!(longest[0] <= 1, "what is given up takes no room: {longest:?}");
    }
}

#[tokio::test]
async fn a_stream_that_the_release_before_got_stuck_goes_on_behind_its_last_event() {
    let database = Database::migrated().await;
    let mut reader = with_a_gap(&database, "orders").await;
    reader.reset(Cursor::Start).await;
    reader.page(5).await;
    // It had dropped x9, and x3 came by.
    database.run("UPDATE headgate.source SET reread_to = NULL, reread_covers = NULL").await;
    assert_eq!(reader.page(4).await, Page::Rejected(reader.feed[5..].to_vec()));
    reader.feed.extend(["x10", "x11"].map(str::to_owned));
    reader.reset(after("x9")).await;
    reader.finish(4).await;
    reader.ends_after_a_reset().await;
}

/// Resets, here and there, of a stream of which each epoch reads some pages; with `older`, by replicas of two releases.
async fn random_history(reader: &mut Reader<'_>, older: bool, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..rng.random_range(2..7) {
        for _ in 0..rng.random_range(0..5) {
            let limit = rng.random_range(1..7);
            let page =
                if older && rng.random_bool(0.4) { Older::page(reader, limit).await } else { reader.page(limit).await };
            assert!(!matches!(page, Page::Rejected(_)), "seed {seed}: stuck at {}: {page:?}", reader.replica.cursor);
        }
        let start = match rng.random_range(0..=reader.feed.len() + 4).checked_sub(5) {
            Some(place) => after(&reader.feed[place]),
            None => Cursor::Start,
        };
        if older && rng.random_bool(0.4) {
            Older::reset(reader, start).await;
        } else {
            reader.reset(start).await;
        }
    }
    reader.finish(rng.random_range(1..7)).await;
}

#[tokio::test]
async fn whatever_epochs_it_has_been_through_a_stream_is_read_to_its_end_and_nothing_is_stored_twice() {
    let database = Database::migrated().await;
    for seed in 0..HISTORIES {
        let mut reader = Reader::of(&database, &format!("seed-{seed}"), 12).await;
        random_history(&mut reader, false, seed).await;
        reader.ends_after_a_reset().await;
    }
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_where_a_replica_of_the_release_before_resets_and_appends_beside_this_one() {
    let database = Database::migrated().await;
    for seed in 0..HISTORIES {
        let mut reader = Reader::of(&database, &format!("seed-{seed}"), 12).await;
        random_history(&mut reader, true, seed).await;
        // What came by under that release may be waited for in this epoch; the next one passes it.
        reader.reset(Cursor::Start).await;
        reader.finish(4).await;
        reader.ends_after_a_reset().await;
    }
}
