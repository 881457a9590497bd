# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of samepage and samepaged in bash. What there is to complete is asked of the program itself, by its help
# (some milliseconds), so that there is no second list of commands, options and settings: an option's argument is
# completed by what stands for it there (PATH, PID, KEY=VALUE ...), and a command's own by its usage line.

# --- What the help says ---------------------------------------------------------------------------------------

_samepage_commands() { # PROGRAM
    "$1" help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

# "NAME ARGUMENT" for each option in both of its forms; ARGUMENT is empty where it takes none.
_samepage_options() { # HELP
    sed -nE 's/^ {2,6}(-[a-zA-Z0-9], )?(--[a-z-]+)( ([A-Z0-9/=]+))?(, (-[a-zA-Z]))? .*/\1 \2 \6 \4/p' <<<"$1" |
        while read -r a b c d; do
            # Which of them are forms is told by their dashes.
            local form argument='' forms=()
            for form in "${a%,}" "$b" "$c" "$d"; do
                case $form in -*) forms+=("$form") ;; *) argument+=$form ;; esac
            done
            for form in "${forms[@]}"; do echo "$form $argument"; done
        done
}

_samepage_settings() { # HELP
    sed -n '/^Settings.*:/,/^$/s/^  \([a-z_]*\)=.*/\1/p' <<<"$1"
}

_samepage_counters() { # HELP
    sed -n '/^Counters:/,/^$/s/^  \([a-z_]*\)  (.*/\1/p' <<<"$1"
}

# Where there are few.
_samepage_values() { # HELP KEY
    local range
    range=$(sed -nE "s/^  $2=.*, ([0-9]+) to ([0-9]+)\)\$/\1 \2/p" <<<"$1")
    local low=${range% *} high=${range#* }
    if [[ $range && ${#high} -le 2 && $((high - low)) -le 10 ]]; then seq "$low" "$high"; fi
}

# --- Words ----------------------------------------------------------------------------------------------------

_samepage_reply() { # WORDS
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

_samepage_files() { # -f|-d
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}

_samepage_pids() {
    _samepage_reply "$(cd /proc && echo [0-9]*)"
}

# bash cuts words at '=': a key that has one behind it asks for a value.
_samepage_key_value() { # HELP
    if [[ $prev == = && $cur != = ]] || [[ $cur == = ]]; then
        local at=$((COMP_CWORD - 1))
        [[ $cur == = ]] || at=$((at - 1))
        [[ $cur == = ]] && cur=
        _samepage_reply "$(_samepage_values "$1" "${COMP_WORDS[at]}")"
        return
    fi
    compopt -o nospace 2>/dev/null
    _samepage_reply "$(_samepage_settings "$1" | sed 's/$/=/')"
}

_samepage_argument() { # OPTION ARGUMENT HELP
    case $2 in
    PATH | FILE) _samepage_files -f ;;
    DIR) _samepage_files -d ;;
    USER) mapfile -t COMPREPLY < <(compgen -u -- "$cur") ;;
    PID) _samepage_pids ;;
    KEY=VALUE) _samepage_key_value "$3" ;;
    COLUMN) _samepage_reply "$(sed -nE 's/^  [a-z]  ([a-z0-9]+): .*/\1/p' <<<"$3")" ;;
    1/N) _samepage_reply '1/4 1/16 1/64 1/256' ;;
    NAME) case $1 in --heap | -H) _samepage_reply 'mimalloc jemalloc none' ;; esac ;;
    esac
}

# The words of another command, from there on.
_samepage_command_at() { # INDEX
    if declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    else
        _samepage_files -f
    fi
}

# A command's own words, by what follows its name in its usage line.
_samepage_own() { # USAGE HELP PROGRAM
    case $1 in
    '[COMMAND]') _samepage_reply "$(_samepage_commands "$3")" ;;
    *KEY=VALUE*) _samepage_key_value "$2" ;;
    *'[KEY]'*) _samepage_reply "$(_samepage_settings "$2") $(_samepage_counters "$2")" ;;
    *PID*) _samepage_pids ;;
    esac
}

# --- The line -------------------------------------------------------------------------------------------------

# Options and words from that place on.
_samepage_line() { # INDEX USAGE HELP PROGRAM
    local i=$1 usage=$2 help=$3 name option
    local -A takes=()
    while read -r name option; do
        takes[$name]=$option
    done < <(_samepage_options "$help")
    while ((i < COMP_CWORD)); do
        name=${COMP_WORDS[i]}
        if [[ $name == -- ]]; then
            [[ $usage == *COMMAND* ]] && _samepage_command_at $((i + 1))
            return
        elif [[ $name == -* && ${takes[$name]-} ]]; then
            i=$((i + 1))
            [[ ${COMP_WORDS[i]} == = && $i -lt $COMP_CWORD ]] && i=$((i + 1))
            local first=$i
            # Of KEY=VALUE all three parts.
            [[ ${takes[$name]} == *=* && ${COMP_WORDS[i + 1]-} == = ]] && i=$((i + 2))
            if ((i >= COMP_CWORD || first >= COMP_CWORD)); then
                [[ $cur == = && $first -eq $COMP_CWORD ]] && cur=
                _samepage_argument "$name" "${takes[$name]}" "$help"
                return
            fi
        elif [[ $name != -* && $usage == *'[--] COMMAND'* ]]; then
            _samepage_command_at "$i"
            return
        fi
        i=$((i + 1))
    done
    if [[ $cur == -* ]]; then
        _samepage_reply "${!takes[*]}"
    elif [[ $usage == *'[--] COMMAND'* ]]; then
        _samepage_command_at "$i"
    else
        _samepage_own "$usage" "$help" "$4"
    fi
}

_samepage() {
    local program=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} help usage
    COMPREPLY=()
    if [[ ${program##*/} == samepaged ]]; then
        _samepage_line 1 '' "$("$program" --help 2>/dev/null)" "$program"
        return
    fi
    if ((COMP_CWORD == 1)); then
        _samepage_reply "$(_samepage_commands "$program") --help --version"
        return
    fi
    help=$("$program" help "${COMP_WORDS[1]}" 2>/dev/null) || return
    usage=${help%%$'\n'*}
    usage=${usage#Usage: samepage "${COMP_WORDS[1]}"}
    _samepage_line 2 "${usage# }" "$help" "$program"
}

complete -F _samepage samepage samepaged
