# Completes moult's command lines in fish: moult completion fish > ~/.config/fish/completions/moult.fish
function __moult_complete
    set -l asked (commandline -opc)
    set -l cur (commandline -ct)
    string match -q -- '-*' $cur; and set -a asked $cur
    set -l found (command $asked --generate-bash-completion 2>/dev/null)
    if test -z "$found"
        __fish_complete_path $cur
    else if test "$found" = '*.moult'
        __fish_complete_path $cur | string match -r '^[^\t]*(?:/|\.moult)(?:\t.*)?$'
    else
        printf '%s\n' $found
    end
end
complete -c moult -f -a '(__moult_complete)'
