# Completes moult's command lines in bash: source <(moult completion bash)
_moult() {
  local cur=${COMP_WORDS[COMP_CWORD]} word last=0 words=("${COMP_WORDS[0]/#\~/$HOME}")
  # Bash breaks words at = and :, and moult does not.
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ $word == [=:] || ${words[last]} == *[=:] ]]; then
      words[last]+=$word
    else
      words[++last]=$word
    fi
  done
  [[ $cur == -* ]] && words[++last]=$cur
  COMPREPLY=()
  # Nothing that is found is expanded: nodes choose their names.
  while IFS= read -r word; do
    if [[ $word == '*.moult' ]]; then
      compopt -o filenames 2>/dev/null || true
      while IFS= read -r word; do
        COMPREPLY+=("$word")
      done < <(compgen -f -X '!*.moult' -- "$cur"; compgen -d -- "$cur")
    elif [[ $word == "$cur"* ]]; then
      printf -v word %q "$word"
      COMPREPLY+=("$word")
    fi
  done < <("${words[@]}" --generate-bash-completion 2>/dev/null)
}
complete -o bashdefault -o default -F _moult moult
