#compdef moult
# Completes moult's command lines in zsh: source <(moult completion zsh), after compinit
_moult() {
  local -a asked found
  asked=("${(@)words[1,CURRENT-1]}")
  [[ ${words[CURRENT]} == -* ]] && asked+=("${words[CURRENT]}")
  asked[1]=${asked[1]/#\~/$HOME}
  found=("${(@f)$("${asked[@]}" --generate-bash-completion 2>/dev/null)}")
  if [[ -z ${found[1]} ]]; then
    _files
  elif [[ ${found[1]} == '*.moult' ]]; then
    _files -g '*.moult'
  else
    compadd -- "${found[@]}"
  fi
}
if [[ ${funcstack[1]} == _moult ]]; then
  _moult "$@"
else
  compdef _moult moult
fi
