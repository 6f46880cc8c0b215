#!/usr/bin/env bash
# The story of the README on a real cluster: three objects, one guarded PostgreSQL, stock psql.
# Leaves the cluster up; `hack/demo.sh down` ends it. With KUBECONFIG and SALLYPORT_USE_CLUSTER=1 it runs against that
# cluster, with images it can pull: SALLYPORT_OPERATOR_IMAGE, SALLYPORT_PROXY_IMAGE, POSTGRES_IMAGE.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${SALLYPORT_CLUSTER:-demo}
own=yes
[ "${SALLYPORT_USE_CLUSTER:-}" = 1 ] && [ -n "${KUBECONFIG:-}" ] && own=no
operator_image=${SALLYPORT_OPERATOR_IMAGE:-sallyport-operator:dev}
proxy_image=${SALLYPORT_PROXY_IMAGE:-sallyport-proxy:dev}
postgres_image=${POSTGRES_IMAGE:-sallyport-postgres:dev}
files=config/demo

if [ "$own" = yes ]; then
  harness=${CARGO_TARGET_DIR:-target}/debug/sallyport-cluster
  cluster() { "$harness" "$@"; }
  kubectl() { "$harness" kubectl --name "$name" -- "$@"; }
fi

bold=$(tput bold 2>/dev/null || true) plain=$(tput sgr0 2>/dev/null || true)
chapter() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# Prints a command as a person would type it, runs it, and lets its answer be seen, be it yes or no.
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@" || true; }
must() { "$@" >/dev/null || { echo "failed: $*" >&2; exit 1; }; }

if [ "${1:-}" = down ]; then
  if [ "$own" = yes ]; then
    cargo build --quiet --workspace --bin sallyport-cluster
    cluster down --name "$name"
  else
    kubectl delete namespace demo-shop demo-ci --ignore-not-found
    kubectl delete -k config/default --ignore-not-found
  fi
  exit 0
fi

# An agent's psql: in a pod that has its identity's Secret mounted and nothing else.
target='host=orders-db.demo-shop port=5432 dbname=shop user=default sslmode=verify-full'
identity='sslcert=/identity/tls.crt sslkey=/identity/tls.key sslrootcert=/identity/ca.crt'
agent() {
  printf '%spsql> %s%s\n' "$bold" "$1" "$plain"
  kubectl exec -i -n demo-ci agent -- psql -X -q "$target $identity" -c "$1" 2>&1 || true
}

if [ "$own" = yes ]; then
  chapter "What makes clusters here (some minutes, the first time)"
  cargo build --workspace --bin sallyport-cluster
  chapter "Kubernetes, from its own modules (built once a machine)"
  cluster build
  chapter "The images: scratch, one binary each"
  hack/images.sh
  chapter "A cluster of one node, inside this machine"
  cluster up --name "$name"
  cluster load --name "$name" build/images/operator.tar build/images/proxy.tar build/images/postgres.tar
fi

chapter "Sallyport itself: kinds, rights, operator"
draft=$(mktemp -d); trap 'rm -rf "$draft"' EXIT
kubectl kustomize config/default | sed "s#sallyport-operator:dev#$operator_image#; s#sallyport-proxy:dev#$proxy_image#" >"$draft/all.yaml"
must kubectl apply --server-side -f "$draft/all.yaml"
show kubectl wait -n sallyport-system deployment/sallyport-operator --for=condition=Available --timeout=120s

chapter "A PostgreSQL with sample data, in a pod of its own"
kubectl create namespace demo-shop --dry-run=client -o yaml | must kubectl apply -f -
kubectl create namespace demo-ci --dry-run=client -o yaml | must kubectl apply -f -
if ! kubectl get secret -n demo-shop orders-ca >/dev/null 2>&1; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=demo database CA" \
    -keyout "$draft/ca.key" -out "$draft/ca.crt" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=db" -keyout "$draft/tls.key" -out "$draft/tls.csr" 2>/dev/null
  openssl x509 -req -in "$draft/tls.csr" -CA "$draft/ca.crt" -CAkey "$draft/ca.key" -CAcreateserial -days 30 \
    -extfile <(echo 'subjectAltName=DNS:db.demo-shop.svc') -out "$draft/tls.crt" 2>/dev/null
  must kubectl create secret tls -n demo-shop db-tls --cert="$draft/tls.crt" --key="$draft/tls.key"
  must kubectl create secret generic -n demo-shop orders-ca --from-file=ca.crt="$draft/ca.crt"
  must kubectl create secret generic -n demo-shop orders-db --from-literal=username=app --from-literal=password="$(openssl rand -hex 24)"
fi
sed "s#sallyport-postgres:dev#$postgres_image#" $files/database.yaml | must kubectl apply -f -
show kubectl wait -n demo-shop pod/db --for=condition=Ready --timeout=120s

chapter "Three objects: who, what, and who may do what"
must kubectl apply -f $files/identity.yaml -f $files/target.yaml -f $files/policy.yaml
sed -n '/^spec:/,$p' $files/policy.yaml
show kubectl wait -n demo-ci agentidentity/migration-bot --for=condition=Ready --timeout=60s
show kubectl wait -n demo-shop protectedtarget/orders-db --for=condition=Programmed --timeout=120s
sed "s#sallyport-postgres:dev#$postgres_image#" $files/agent.yaml | must kubectl apply -f -
must kubectl wait -n demo-ci pod/agent --for=condition=Ready --timeout=60s
show kubectl get agentidentities -n demo-ci
show kubectl get sallyport -n demo-shop

chapter "The agent's certificate is all it needs; it never sees the database's password"
agent "select id, customer, amount from orders order by id limit 3"

chapter "An unbounded delete is refused by name; nothing of it reached the database"
agent "delete from orders"
agent "select count(*) from orders"

chapter "A stranger's certificate is refused in the handshake"
kubectl exec -n demo-ci agent -- bash -c 'cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
  -subj /CN=stranger -addext subjectAltName=URI:spiffe://cluster.local/ns/demo-ci/agent/migration-bot -keyout own.key -out own.crt 2>/dev/null; chmod 600 own.key'
printf '%spsql> select 1   (with a certificate it made itself)%s\n' "$bold" "$plain"
kubectl exec -i -n demo-ci agent -- psql -X -q "$target sslcert=/tmp/own.crt sslkey=/tmp/own.key sslrootcert=/identity/ca.crt" -c "select 1" 2>&1 || true

chapter "A policy edited while a session is open: the very next statement"
# One stream in the pod, so that errors and rows come in their order; the pod's own standard error stays open (3),
# for kubelet ends the session's input when that closes.
coproc SESSION { kubectl exec -i -n demo-ci agent -- bash -c 'exec 3>&2 2>&1; exec psql -X -q "$0"' "$target $identity" 2>&1; }
say_in_session() { printf '%s\n\\echo --\n' "$1" >&"${SESSION[1]}"; }
hear() { while IFS= read -r -t 30 line <&"${SESSION[0]}"; do [ "$line" = -- ] && break; printf '%s\n' "$line"; done; }
printf '%spsql> select count(*) from customers;%s\n' "$bold" "$plain"
say_in_session "select count(*) from customers;"; hear
edit='[{"op":"replace","path":"/spec/rules/0/postgres/tables","value":["public.orders"]}]'
show kubectl patch accesspolicy -n demo-shop read-orders --type=json -p "$edit"
sleep 0.5
printf '%spsql> select count(*) from customers;   (the same session)%s\n' "$bold" "$plain"
say_in_session "select count(*) from customers;"; hear

chapter "The identity suspended: the session ends"
show kubectl patch agentidentity -n demo-ci migration-bot --type=merge -p '{"spec":{"suspend":true}}'
sleep 0.5
printf '%spsql> select 1;   (the same session)%s\n' "$bold" "$plain"
{ say_in_session "select 1;"; hear; wait "${SESSION_PID:-}"; } 2>/dev/null || true

chapter "Who did what: the records"
for pod in $(kubectl get pods -n demo-shop -l sallyport.dev/target=orders-db -o name); do
  show kubectl exec -n demo-shop "$pod" -- /sallyport-proxy records
done

# So that the door is open again for whoever looks around.
must kubectl patch agentidentity -n demo-ci migration-bot --type=merge -p '{"spec":{"suspend":false}}'
must kubectl apply -f $files/policy.yaml

chapter "It is all still there"
if [ "$own" = yes ]; then
  echo "  export KUBECONFIG=$("$harness" status --name "$name" | sed -n 's/^ *kubeconfig *//p')"
fi
cat <<TXT
  kubectl get sallyport -A
  kubectl get configmap -n demo-shop orders-db-bundle -o yaml
  kubectl exec -it -n demo-ci agent -- psql "$target $identity"
  make demo-down        ends it
TXT
