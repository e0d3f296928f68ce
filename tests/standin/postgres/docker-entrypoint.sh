#!/usr/bin/env bash
# What the postgres image documents of its first start, in the same order, written anew for the stand-in:
# initdb, the line that lets the host in, a server on the Unix socket only, the database, the user's scripts, the real server.
# No -u: scripts of the user that are sourced below must find the shell they expect.
set -eo pipefail

# `docker run IMAGE -c fsync=off` means postgres; `docker run IMAGE bash` does not.
case "${1:-}" in -*) set -- postgres "$@" ;; esac
[ "${1:-}" = postgres ] || exec "$@"
for flag in "$@"; do
    case $flag in -V | --version | '-?' | --help | --describe-config) exec "$@" ;; esac
done

sockets=/var/run/postgresql
# A mount may refuse to be changed and still be right; PostgreSQL says so if it is not.
mkdir -p "$PGDATA" "$sockets" || :
chmod 0700 "$PGDATA" || :
chmod 3777 "$sockets" 2>/dev/null || :
if [ "$(id -u)" = 0 ]; then
    find "$PGDATA" "$sockets" ! -user postgres -exec chown postgres {} +
    exec env HOME=/var/lib/postgresql setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"
}

run_initdb() {
    local arguments=()
    eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
    if ! getent passwd "$(id -u)" >/dev/null; then # --user 1234: initdb asks for the name of its user
        export LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
        NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
        echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
        echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
    fi
    initdb --username="$POSTGRES_USER" --pwfile=<(echo "${POSTGRES_PASSWORD:-}") "${arguments[@]}"
}

run_init_scripts() {
    local file
    shopt -s nullglob
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh | *.sql | *.sql.gz) echo "$0: running $file" ;;
            *) echo "$0: ignoring $file" ;;
        esac
        # shellcheck source=/dev/null
        case $file in
            *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) sql --dbname "$POSTGRES_DB" --file "$file" ;;
            *.sql.gz) gunzip --stdout "$file" | sql --dbname "$POSTGRES_DB" ;;
        esac
    done
}

initialise() ( # a subshell, so that the password does not stay in the server's environment
    export POSTGRES_USER=${POSTGRES_USER:-postgres}
    export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
        echo "Error: Database is uninitialized and superuser password is not specified." >&2
        echo "       Set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust to let everybody in." >&2
        exit 1
    fi
    (run_initdb)
    printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"

    export PGPASSWORD=${PGPASSWORD:-${POSTGRES_PASSWORD:-}}
    pg_ctl --wait start --options "$(printf '%q ' "${@:2}" -c listen_addresses= -p "${PGPORT:-5432}")"
    sql --dbname postgres --set "name=$POSTGRES_DB" <<<"
        SELECT format('CREATE DATABASE %I', :'name')
        WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec"
    run_init_scripts
    pg_ctl --wait --mode fast stop
    printf '\nPostgreSQL init process complete; ready for start up.\n\n'
)

# The only sign of a finished cluster that is looked at, as upstream: a first start cut short after this file is not noticed.
if [ -s "$PGDATA/PG_VERSION" ]; then
    printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
else
    initialise "$@"
fi
exec "$@"
