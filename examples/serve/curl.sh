#!/bin/sh
# Ask a server: `./curl.sh`, or `./curl.sh http://10.0.0.5:8000 '"The prompt, as JSON"'`.
# The variable EDGEGPT_API_KEY has its key. Exit code: curl's, 22 for an answer that is an error.
set -eu
server=${1:-http://127.0.0.1:8000}
prompt=${2:-'"ROMEO:"'}

ask() { # the key stays out of the list of processes
    printf 'header = "Authorization: Bearer %s"\n' "${EDGEGPT_API_KEY:-none}" |
        curl --silent --show-error --fail-with-body --config - \
            --header 'Content-Type: application/json' "$@"
    echo
}

ask "$server/health"
ask "$server/v1/models"
ask "$server/v1/completions" --data "{\"prompt\": $prompt, \"max_tokens\": 40, \"seed\": 1}"
# An event for each piece of the text, as it comes.
ask "$server/v1/completions" --no-buffer \
    --data "{\"prompt\": $prompt, \"max_tokens\": 10, \"seed\": 1, \"stream\": true}"
