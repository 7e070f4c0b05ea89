//! Chart and kustomize base: well-formed, alike, and taken by the API server in every variant.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::outside::SOURCES;
use super::{RESTRICTED, SYSTEM, Suite};

/// The smallest values a release needs.
pub(super) const DATABASE: &str = "--set database.existingSecret=headgate-database";

/// Values that change what is rendered, with the kinds that must and must not come out.
const VARIANTS: [(&str, &[&str], &[&str]); 13] = [
    ("", &["ClusterRole", "PodDisruptionBudget", "CustomResourceDefinition"], &["Namespace", "NetworkPolicy"]),
    ("--set replicaCount=1", &["Deployment"], &["PodDisruptionBudget"]),
    ("--set replicaCount=null", &["Deployment", "PodDisruptionBudget"], &[]),
    ("--set watchNamespace=shop", &["Role"], &["ClusterRole", "ClusterRoleBinding"]),
    ("--set database.migrateSecretKey=direct-uri,database.connections=4,takeOver=true", &["Deployment"], &[]),
    ("--set egress.allow={127.0.0.1/32},egress.deny={10.96.0.1,fd00::/8}", &["Deployment"], &[]),
    ("--set crds.enabled=false", &["Deployment"], &["CustomResourceDefinition"]),
    ("--set retentionDays=30,bufferBytes=64MiB,log=debug,terminationGracePeriodSeconds=120", &["Deployment"], &[]),
    (
        "--set serviceAccount.create=false,serviceAccount.name=default,nameOverride=hg",
        &["Deployment"],
        &["ServiceAccount"],
    ),
    // As a parent chart with a condition gives it.
    ("--set enabled=true", &["Deployment"], &[]),
    ("--set networkPolicy.enabled=true", &["NetworkPolicy"], &[]),
    (
        "--set monitoring.podMonitor.enabled=true,monitoring.podMonitor.interval=30s",
        &["PodMonitor"],
        &["PrometheusRule"],
    ),
    (
        "--set monitoring.rules.enabled=true,monitoring.rules.labels.release=prometheus",
        &["PrometheusRule"],
        &["PodMonitor"],
    ),
];

/// The group of the Prometheus operator, which is not in the clusters of the suite: its objects are rendered only.
const MONITORING: &str = "monitoring.coreos.com/";

/// Values that the API server would refuse, or nobody would read, with what Helm says before it sends anything.
const REFUSED: [(&str, &str); 7] = [
    ("--set podAnnotations.port=8080", "/podAnnotations/port"),
    ("--set podLabels.loader=true", "/podLabels/loader"),
    ("--set nodeSelector.ssd=true", "/nodeSelector/ssd"),
    ("--set serviceAccount.annotations.role=1", "/serviceAccount/annotations/role"),
    ("--set podAnnotation.port=a", "'podAnnotation'"),
    ("--set monitoring.rules.labels.wanted=true", "/monitoring/rules/labels/wanted"),
    ("--set-json networkPolicy.from=[]", "/networkPolicy/from"),
];

pub(super) async fn check(suite: &Suite) -> Result<()> {
    let terminal = &suite.terminal;
    for namespace in [SYSTEM, SOURCES] {
        terminal.kubectl(&format!("create namespace {namespace}")).await?;
    }
    terminal.kubectl(&format!("label namespace {SYSTEM} {RESTRICTED}")).await?;

    let chart = chart();
    terminal.helm(&format!("lint --strict {chart} {DATABASE}")).await?;
    let without_database = terminal.helm(&format!("template headgate {chart}")).await;
    ensure!(
        without_database
            .is_err_and(|error| format!("{error:#}").contains("database.existingSecret must name a Secret")),
        "a release without a database was not refused with the value to set"
    );
    for (values, place) in REFUSED {
        let rendered = terminal.helm(&format!("template headgate {chart} {DATABASE} {values}")).await;
        ensure!(
            rendered.is_err_and(|error| format!("{error:#}").contains(place)),
            "the chart with '{values}' was not refused for {place}"
        );
    }
    users_of_the_namespace(suite, &chart).await?;
    for (values, present, absent) in VARIANTS {
        variant(suite, &chart, values, present, absent).await.with_context(|| format!("the chart with '{values}'"))?;
    }

    let base = crate::repository().join("config/default").display().to_string();
    terminal.kubectl(&format!("apply --server-side --force-conflicts --dry-run=server -k {base}")).await?;
    let charted = terminal.helm(&format!("template headgate {chart} -n {SYSTEM} {DATABASE}")).await?;
    let kustomized = terminal.kubectl(&format!("kustomize {base}")).await?;
    alike(&shapes(&charted)?, &shapes(&kustomized)?)
}

/// The chart of this clone.
pub(super) fn chart() -> String {
    crate::repository().join("charts/headgate").display().to_string()
}

/// As on OpenShift, whose namespaces have users of their own.
async fn users_of_the_namespace(suite: &Suite, chart: &str) -> Result<()> {
    let any = "--set podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null";
    let rendered = suite.terminal.helm(&format!("template headgate {chart} {DATABASE} {any}")).await?;
    ensure!(!rendered.contains("runAsUser") && !rendered.contains("runAsGroup"), "null leaves a user or a group");
    ensure!(rendered.contains("runAsNonRoot: true"), "null takes more than the user and the group");
    Ok(())
}

async fn variant(suite: &Suite, chart: &str, values: &str, present: &[&str], absent: &[&str]) -> Result<()> {
    let template = format!("template headgate {chart} -n {SYSTEM} {DATABASE} {values}");
    let rendered = suite.terminal.helm(template.trim()).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).context("read what Helm rendered")?;
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    for kind in present {
        ensure!(kinds.contains(kind), "renders no {kind}, only {kinds:?}");
    }
    for kind in absent {
        ensure!(!kinds.contains(kind), "renders a {kind}");
    }
    let known = |object: &&Value| !object["apiVersion"].as_str().unwrap_or_default().starts_with(MONITORING);
    let known: Vec<&Value> = objects.iter().filter(known).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": known });
    let dry_run = "apply --server-side --dry-run=server -f -";
    suite.terminal.kubectl_fed(dry_run, &list.to_string()).await.map(drop)
}

/// What chart and base should agree on: every object but the namespace, without what only one of them sets (labels, the
/// annotations of Helm, defaults of the operator spelled out in variables).
fn shapes(manifests: &str) -> Result<BTreeMap<String, Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests).context("read manifests")?;
    let mut shapes = BTreeMap::new();
    for mut object in objects {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (word(&object["kind"]), word(&object["metadata"]["name"]));
        if kind.is_empty() || kind == "Namespace" {
            continue;
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        if kind == "Service" {
            object["spec"]["selector"] = Value::Null;
        }
        strip(&mut object);
        shapes.insert(format!("{kind} {name}"), object);
    }
    Ok(shapes)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !matches!(key.as_str(), "labels" | "matchLabels" | "annotations"));
            if let Some(Value::Array(variables)) = fields.get_mut("env") {
                variables.retain(|variable| variable["value"].is_null());
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn alike(charted: &BTreeMap<String, Value>, kustomized: &BTreeMap<String, Value>) -> Result<()> {
    let names = |shapes: &BTreeMap<String, Value>| shapes.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(charted) == names(kustomized),
        "chart and kustomize base hold different objects:\n{:?}\n{:?}",
        names(charted),
        names(kustomized)
    );
    for (name, shape) in charted {
        let other = &kustomized[name];
        ensure!(shape == other, "chart and kustomize base differ in {name}:\n{shape}\n{other}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(path: &str) -> String {
        fs::read_to_string(crate::repository().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
    }

    /// The rules of every role in a file, which may be a template: rules hold no template code.
    fn rules(text: &str) -> Vec<Value> {
        let mut blocks: Vec<String> = Vec::new();
        let mut inside = false;
        for line in text.lines() {
            let begins = line == "rules:";
            inside = begins || (inside && line.starts_with(' '));
            match blocks.last_mut() {
                _ if begins => blocks.push(String::new()),
                Some(block) if inside => block.extend([line, "\n"]),
                _ => {}
            }
        }
        blocks.iter().map(|block| serde_saphyr::from_str(block).expect("rules are plain YAML")).collect()
    }

    #[test]
    fn chart_and_kustomize_base_grant_the_same_rights() {
        let (chart, base) = (file("charts/headgate/templates/rbac.yaml"), file("config/rbac/role.yaml"));
        assert_eq!(rules(&chart).len(), 2, "one role for sources and one for Leases");
        assert_eq!(rules(&chart), rules(&base));
    }

    #[test]
    fn pods_of_chart_and_kustomize_base_are_confined_alike() {
        let values: Value = serde_saphyr::from_str(&file("charts/headgate/values.yaml")).expect("YAML");
        let base: Value = serde_saphyr::from_str(&file("config/manager/deployment.yaml")).expect("YAML");
        let pod = &base["spec"]["template"]["spec"];
        assert_eq!(values["podSecurityContext"]["runAsNonRoot"], true);
        assert_eq!(values["podSecurityContext"], pod["securityContext"]);
        assert_eq!(values["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(values["securityContext"], pod["containers"][0]["securityContext"]);
    }

    /// A family of metrics, and how the names of its series end.
    type Exported = (String, &'static [&'static str]);

    /// What the code registers, read as text: the bed is built without the operator.
    fn exported() -> Vec<Exported> {
        let rooms = ["src/telemetry/metrics.rs", "src/telemetry/logs.rs", "src/admin/held.rs", "src/admin/waits.rs"];
        rooms.iter().flat_map(|path| registered(&file(path))).collect()
    }

    fn registered(code: &str) -> Vec<Exported> {
        let starts = ["registry.register(", "registry.register_with_unit(", "encode_descriptor("];
        let calls = starts.iter().flat_map(|start| code.split(start).skip(1));
        let family = |call: &str| {
            let ends = [".clone()", ".metric_type()", ");"].iter().filter_map(|end| call.find(end));
            let arguments = &call[..ends.min().expect("an end")];
            let name = arguments.split('"').nth(1).expect("a name in quotes");
            let unit = if arguments.contains("Unit::Seconds") { "_seconds" } else { "" };
            let last = arguments.trim_end().trim_end_matches(',').rsplit([' ', '\n']).next().unwrap_or_default();
            (format!("headgate_{name}{unit}"), endings(code, last.trim_start_matches("self.")))
        };
        calls.map(family).collect()
    }

    fn endings(code: &str, metric: &str) -> &'static [&'static str] {
        let declared = [format!("pub {metric}: "), format!("let {metric} = ")];
        let kind = code.lines().find(|line| declared.iter().any(|start| line.trim_start().starts_with(start)));
        match kind {
            Some(kind) if kind.contains("Counter") => &["_total"],
            Some(kind) if kind.contains("Gauge") => &[""],
            Some(kind) if kind.contains("Histogram") => &["_bucket", "_count", "_sum"],
            _ => panic!("no metric '{metric}' is declared"),
        }
    }

    /// The words of a text that look like metrics of the operator.
    fn metrics(text: &str) -> Vec<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("headgate_")).collect()
    }

    /// Those of the chart, with their names.
    fn alerts() -> Vec<(String, Value)> {
        let rules: Value = serde_saphyr::from_str(&file("charts/headgate/files/alerts.yaml")).expect("YAML");
        let groups = rules["groups"].as_array().expect("groups");
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
        rules.map(|rule| (rule["alert"].as_str().expect("a name").to_owned(), rule.clone())).collect()
    }

    #[test]
    fn alerts_ask_only_for_series_that_are_exported() {
        let exported = exported();
        let is_series = |name: &str| {
            exported.iter().any(|(family, ends)| name.strip_prefix(&**family).is_some_and(|end| ends.contains(&end)))
        };
        let alerts = alerts();
        assert!(alerts.len() > 5, "{alerts:?}");
        for (alert, rule) in alerts {
            let asked = metrics(rule["expr"].as_str().expect("an expression"));
            assert!(!asked.is_empty(), "{alert} asks for nothing");
            for name in asked {
                assert!(is_series(name), "{alert} asks for {name}, which is not among {exported:?}");
            }
        }
    }

    #[test]
    fn alerts_and_the_readme_name_only_metrics_that_are_exported() {
        let exported = exported();
        for path in ["charts/headgate/files/alerts.yaml", "README.md"] {
            let text = file(path);
            for name in metrics(&text) {
                let known = exported.iter().any(|(family, ends)| {
                    name.strip_prefix(&**family).is_some_and(|end| end.is_empty() || ends.contains(&end))
                });
                assert!(known, "{path} names {name}, which is not among {exported:?}");
            }
        }
    }

    #[test]
    fn alerts_know_the_statuses_of_sources() {
        let code = file("src/admin/held.rs") + &file("src/api/conditions.rs") + &file("src/api/reason.rs");
        let known = |status: &str| code.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == status);
        let alerts = alerts();
        let asked =
            alerts.iter().filter_map(|(_, rule)| rule["expr"].as_str()?.split_once("{status")?.1.split('"').nth(1));
        let statuses: Vec<&str> = asked.flat_map(|asked| asked.split('|')).collect();
        assert!(!statuses.is_empty());
        assert!(statuses.iter().all(|status| known(status)), "{statuses:?}");
    }

    #[test]
    fn every_alert_tells_how_bad_it_is_and_where_to_look() {
        let fields = |rule: &Value| {
            let annotations = &rule["annotations"];
            [&rule["for"], &rule["labels"]["severity"], &annotations["summary"], &annotations["description"]]
                .map(|field| field.as_str().is_some_and(|text| !text.is_empty()))
        };
        for (alert, rule) in alerts() {
            assert_eq!(fields(&rule), [true; 4], "{alert}: for, severity, summary, description");
        }
    }

    #[test]
    fn chart_and_kustomize_base_name_the_image_that_is_built() {
        let image = crate::image::name().expect("a name");
        let (repository, version) = image.split_once(':').expect("a tag");
        let chart = file("charts/headgate/Chart.yaml");
        assert!(chart.contains(&format!("\nversion: {version}\nappVersion: {version}\n")), "{chart}");
        assert!(file("charts/headgate/values.yaml").contains(&format!("  repository: {repository}\n")));
        assert!(file("config/manager/deployment.yaml").contains(&format!("image: {image}\n")));
    }
}
