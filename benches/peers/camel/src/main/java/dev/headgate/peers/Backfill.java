package dev.headgate.peers;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import org.apache.camel.Exchange;
import org.apache.camel.builder.RouteBuilder;
import org.apache.camel.component.jackson.ListJacksonDataFormat;
import org.apache.camel.main.Main;

/** Reads every source to its end, page by page, and inserts each page as one SQL batch. Settings: see README.md. */
public final class Backfill extends RouteBuilder {
    private static final int LIMIT = 1000;
    private static final int THREADS = 8;

    /** Camel keeps no cursor: what a source was read to is what is stored of it. */
    private final Map<String, Long> stored;

    private Backfill(Map<String, Long> stored) {
        this.stored = stored;
    }

    public static void main(String[] arguments) throws Exception {
        HikariConfig pool = new HikariConfig();
        pool.setJdbcUrl(environment("PEER_JDBC_URL"));
        pool.setMaximumPoolSize(THREADS);
        try (HikariDataSource events = new HikariDataSource(pool)) {
            Main main = new Main();
            main.bind("events", events);
            main.configure().addRoutesBuilder(new Backfill(prepare(events)));
            main.start();
            List<String> sources = List.of(environment("PEER_SOURCES").split(","));
            main.getCamelTemplate().sendBody("direct:backfill", sources);
            main.stop();
        }
    }

    @Override
    public void configure() {
        String base = environment("PEER_SOURCE_URL");

        from("direct:backfill")
            .split(body()).parallelProcessing().stopOnException().executorService(pool())
                .to("direct:source")
            .end();

        from("direct:source")
            .setProperty("source", body())
            .process(this::startAfterWhatIsStored)
            .setProperty("full", constant(true))
            .loopDoWhile(exchangeProperty("full"))
                .removeHeaders("*")
                .setBody(constant(null))
                .setHeader(Exchange.HTTP_METHOD, constant("GET"))
                .setHeader(Exchange.HTTP_PATH, simple("/${exchangeProperty.source}/events"))
                .setHeader(Exchange.HTTP_QUERY, simple("afterId=${exchangeProperty.after}&limit=" + LIMIT))
                .to(base + "?connectionsPerRoute=" + THREADS)
                .unmarshal(new ListJacksonDataFormat(Map.class))
                .process(Backfill::move)
                .filter(exchange -> !page(exchange).isEmpty())
                    .to("sql:INSERT INTO peer.events (id, type, occurred_at, subject, note)"
                        + " VALUES (:#id, :#type, CAST(:#occurredAt AS timestamptz), :#subject, :#note)"
                        + "?dataSource=#events&batch=true&parametersCount=5")
                .end()
            .end();
    }

    private ExecutorService pool() {
        return getContext().getExecutorServiceManager().newFixedThreadPool(this, "source", THREADS);
    }

    private void startAfterWhatIsStored(Exchange exchange) {
        exchange.setProperty("after", stored.getOrDefault(exchange.getProperty("source", String.class), 0L));
    }

    /** The next page follows the last event of this one; a page that is not full is the last. */
    private static void move(Exchange exchange) {
        List<?> page = page(exchange);
        if (!page.isEmpty()) {
            exchange.setProperty("after", ((Map<?, ?>) page.get(page.size() - 1)).get("id"));
        }
        exchange.setProperty("full", page.size() == LIMIT);
    }

    private static List<?> page(Exchange exchange) {
        return exchange.getMessage().getBody(List.class);
    }

    private static Map<String, Long> prepare(HikariDataSource events) throws SQLException {
        Map<String, Long> stored = new HashMap<>();
        try (Connection connection = events.getConnection(); var statement = connection.createStatement()) {
            statement.execute("CREATE SCHEMA IF NOT EXISTS peer");
            statement.execute("CREATE TABLE IF NOT EXISTS peer.events"
                + " (id bigint, type text, occurred_at timestamptz, subject text, note text)");
            var rows = statement.executeQuery(
                "SELECT regexp_replace(subject, '-[0-9]+$', ''), max(id) FROM peer.events GROUP BY 1");
            while (rows.next()) {
                stored.put(rows.getString(1), rows.getLong(2));
            }
        }
        return stored;
    }

    private static String environment(String name) {
        String value = System.getenv(name);
        if (value == null) {
            throw new IllegalStateException(name + " is not set: this program is run by make bench-peers");
        }
        return value;
    }
}
